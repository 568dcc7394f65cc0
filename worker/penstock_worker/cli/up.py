"""`penstock up`: everything on this machine, until Ctrl-C."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from penstock_worker.settings import Settings, hide_password, load_settings
from penstock_worker.stack.up import Stack, start_stack

__all__ = ["end_like_ctrl_c", "register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("up")(up)


def up(
    flower_port: Annotated[int | None, typer.Option(min=1, max=65_535, help="Flower's port; a free one by default.")] = None,
) -> None:
    """
    Run servers, workers (for events, for maintenance), beat and Flower in this folder until Ctrl-C.

    A server is started for each of PENSTOCK_DATABASE_URL and PENSTOCK_BROKER_URL that is not set; its data stay in .penstock/.
    """
    end_like_ctrl_c()
    settings = load_settings(**({} if flower_port is None else {"flower_port": flower_port}))
    typer.echo("starting ...")
    try:
        with start_stack(Path.cwd(), settings, say=typer.echo) as stack:
            _show(stack, settings)
            try:
                stack.wait()
            except KeyboardInterrupt:
                typer.echo("stopping: the worker finishes its batches ...")
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    typer.echo("stopped")


def end_like_ctrl_c() -> None:
    """SIGTERM and a closed terminal stop as cleanly; a shell that starts this in the background has SIGINT ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def _show(stack: Stack, given: Settings) -> None:
    """The password of a server that somebody else runs is not for the terminal; without that of ours nobody could look."""
    lines = {
        "broker": hide_password(stack.broker_url) if given.broker_url else stack.broker_url,
        "database": hide_password(stack.database_url) if given.database_url else stack.database_url,
        "Flower": stack.flower_url,
        "logs": stack.describe()["logs"],
    }
    for name, value in lines.items():
        typer.echo(f"  {name:9} {value}")
    typer.echo("Penstock is up; Ctrl-C stops it")
