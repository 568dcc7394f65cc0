"""`penstock schedule`: what beat sends and when, changing it, and running a row now."""

from __future__ import annotations

import typer

from penstock_worker.cli.schedule.change import disable, enable, remove, set_row
from penstock_worker.cli.schedule.look import list_rows
from penstock_worker.cli.schedule.run import run

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command group."""
    schedule = typer.Typer(no_args_is_help=True, help="What beat sends, and when. Beat sees a change within two seconds.")
    schedule.command("list")(list_rows)
    schedule.command("enable")(enable)
    schedule.command("disable")(disable)
    schedule.command("set")(set_row)
    schedule.command("remove")(remove)
    schedule.command("run")(run)
    app.add_typer(schedule, name="schedule")
