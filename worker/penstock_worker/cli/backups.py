"""`penstock backups`: which backups there are."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from penstock_worker.cli.output import plain, print_json
from penstock_worker.settings import load_settings

if TYPE_CHECKING:
    from penstock_worker.store.backup.shelf import Shelved

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("backups")(backups)


def backups(
    folder: Annotated[Path | None, typer.Option(help="Where they lie. Default: PENSTOCK_BACKUP_FOLDER.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the backups, the oldest first. Whether one can be restored is said by `penstock verify`."""
    from penstock_worker.store.backup.shelf import list_backups

    shelf = folder or load_settings().backup_folder
    found = list_backups(shelf)
    if as_json:
        print_json({"folder": shelf, "backups": [_as_object(each) for each in found]})
        return
    if not found:
        typer.echo(f"there is no backup in {shelf}")
        return
    table = Table(box=None, header_style="bold")
    for heading in ("backup", "made at (UTC)", "format", "state"):
        table.add_column(heading, overflow="fold")
    table.add_column("bytes", justify="right")
    for each in found:
        table.add_row(*(plain(cell) for cell in _cells(each)))
    Console().print(table)


def _as_object(found: Shelved) -> dict[str, Any]:
    about = asdict(found.header) if found.header else {"backup_id": found.path.name}
    about.pop("files", None)
    return {**about, "state": _state(found)}


def _cells(found: Shelved) -> tuple[object, ...]:
    header = found.header
    if header is None:
        return (found.path.name, "?", "?", _state(found), "?")
    format = f"{header.format}, encrypted" if header.is_encrypted else header.format
    return (header.backup_id, f"{header.timestamp:%F %T}", format, _state(found), f"{header.size:,}")


def _state(found: Shelved) -> str:
    return "whole" if found.is_whole else "damaged"
