"""`penstock export-person`: all that is stored about a person, as one JSON document."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from penstock_schemas.registry import load_registry
from penstock_worker.cli.erase_person import Person, Who, Why, check_request
from penstock_worker.settings import load_settings

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export-person")(export_person)


def export_person(
    person: Person,
    who: Who = "",
    why: Why = "",
    output: Annotated[Path | None, typer.Option("--output", help="Write to this file, which nobody else may read.")] = None,
) -> None:
    """Write all that is stored about a person: rows, audit logs, children, dead letters."""
    from penstock_worker.store.connection import connect_with
    from penstock_worker.store.privacy.export import export_person as export
    from penstock_worker.store.privacy.log import Request, begin_entry, end_entry
    from penstock_worker.store.queries import explained

    check_request(person, who, why)
    settings = load_settings()
    request, registry = Request(person, who, why), load_registry(settings.records)
    with explained(), connect_with(settings)() as connection, _opened(output) as write:
        # Noted before anything is read: there is no look at a person that nobody knows of.
        entry = begin_entry(connection, "export", request)
        counts = export(connection, registry, request, write)
        end_entry(connection, entry, {"counts": counts})
    if output:
        rows = sum(counts.values())
        typer.echo(f"{rows:,} rows and letters of {sum(1 for count in counts.values() if count)} kinds in {output}")


@contextmanager
def _opened(output: Path | None) -> Iterator[Callable[[str], object]]:
    """Where the document goes; a file appears when it is complete."""
    if output is None:
        yield sys.stdout.write
        sys.stdout.flush()
        return
    if output.exists() and not output.is_file():  # a device or a pipe, whose place a file would take
        with output.open("w") as file:
            yield file.write
        return
    part = output.with_name(f".{output.name}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            yield file.write
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
