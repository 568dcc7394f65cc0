"""`penstock health`: whether the workers that write their health into this folder work."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from penstock_worker.cli.output import print_json
from penstock_worker.health import Health, read_health
from penstock_worker.settings import load_settings

__all__ = ["register"]

_EXIT_UNHEALTHY = 1


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("health")(health)


def health(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """
    Tell whether the workers of this host work; exit code 1 if one stands still, or if there is none.

    It reads the files of PENSTOCK_HEALTH_FOLDER and asks neither broker nor database, so it fits a container's health check.
    """
    settings, now = load_settings(), time.time()
    workers = read_health(settings.health_folder, settings.queue)
    if as_json:
        print_json({"workers": [{**asdict(worker), "trouble": worker.trouble(now)} for worker in workers]})
    else:
        for worker in workers:
            typer.echo(_line(worker, now))
        if not workers:
            typer.echo(f"no worker of {settings.queue} has written its health into {settings.health_folder}")
    if not workers or any(worker.trouble(now) for worker in workers):
        raise typer.Exit(_EXIT_UNHEALTHY)


def _line(worker: Health, now: float) -> str:
    trouble = worker.trouble(now)
    if trouble and worker.stalled_since:
        return f"{worker.worker} stands still since {datetime.fromtimestamp(worker.stalled_since, UTC):%F %T} UTC: {trouble}"
    if trouble:
        return f"{worker.worker}: {trouble}"
    if worker.paused_why:
        return f"{worker.worker} is paused, {worker.paused_why}"
    return f"{worker.worker} works" if worker.is_consuming else f"{worker.worker} is starting, stopping or reconnecting"
