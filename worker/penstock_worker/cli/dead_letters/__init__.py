"""`penstock dead-letters`: the events that are not in their tables, why, and what to do about it."""

from __future__ import annotations

import typer

from penstock_worker.cli.dead_letters.discard import discard_letters
from penstock_worker.cli.dead_letters.export import export_letters
from penstock_worker.cli.dead_letters.look import list_letters, show_letter
from penstock_worker.cli.dead_letters.options import with_filters
from penstock_worker.cli.dead_letters.replay import replay_letters

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command group."""
    letters = typer.Typer(no_args_is_help=True, help="Events that could not be stored.")
    letters.command("list")(with_filters(list_letters))
    letters.command("show")(show_letter)
    letters.command("replay")(with_filters(replay_letters))
    letters.command("discard")(with_filters(discard_letters))
    letters.command("export")(with_filters(export_letters))
    app.add_typer(letters, name="dead-letters")
