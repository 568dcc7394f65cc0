"""`penstock beat`: start maintenance when it is due, in the foreground."""

from __future__ import annotations

import typer

from penstock_worker.cli.replace import check_broker_tls, replace_by
from penstock_worker.settings import load_settings
from penstock_worker.stack.commands import beat_command

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("beat")(beat)


def beat() -> None:
    """
    Run Celery's beat with the schedule that is in PostgreSQL.

    As many as you like: one of them leads, and the others stand by.
    """
    settings = load_settings()
    check_broker_tls(settings)
    settings.database  # noqa: B018  # raises where it is not set
    replace_by(beat_command(settings), settings)
