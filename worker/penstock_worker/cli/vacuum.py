"""`penstock vacuum`."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock_schemas.registry import load_registry
from penstock_worker.cli.by_hand import run_by_hand
from penstock_worker.settings import load_settings

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("vacuum")(vacuum)


def vacuum(
    tables: Annotated[
        list[str] | None, typer.Argument(metavar="[TABLE]...", help="Record types or tables; all where none is named.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """
    Give the room of dead rows back to their tables, and refresh the planner's statistics: VACUUM (ANALYZE), never FULL.

    Readers and writers go on; a table that somebody has locked is left out, and told.
    """
    from penstock_worker.store.named_tables import find_table

    registry = load_registry(load_settings().records)
    names = [find_table(registry, name).full_name for name in tables or ()]
    run_by_hand("vacuum", as_json=as_json, arguments={"tables": names})
