"""`penstock dead-letters export`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from penstock_worker.cli.dead_letters.progress import progress
from penstock_worker.settings import load_settings

if TYPE_CHECKING:
    from penstock_worker.store.letter_filter import LetterFilter

__all__ = ["export_letters"]


def export_letters(
    meant: LetterFilter,
    *,
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Where to; - is standard output.")],
) -> None:
    """Write letters with their payloads, one JSON object a line; a payload that is no UTF-8 as base64."""
    from penstock_worker.letters.export import export_lines
    from penstock_worker.store import queries
    from penstock_worker.store.stored_letters import count_meant

    written = 0
    # The file last: one of an earlier export is not emptied by a database that is away.
    with queries.open_reader(load_settings()) as reader, _open(output) as stream:
        with progress("letters", count_meant(reader, meant)) as tell:
            for line in export_lines(reader, meant):
                stream.write(line)
                written += 1
                tell(1)
        stream.flush()
    typer.echo(f"{written:,} letters exported", err=True)


@contextmanager
def _open(output: str) -> Iterator[TextIO]:
    if output == "-":
        yield sys.stdout
        return
    with Path(output).open("w", encoding="ascii") as stream:
        yield stream
