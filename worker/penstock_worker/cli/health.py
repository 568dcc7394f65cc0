"""`penstock health`: whether the workers and beats that write their health into this folder work."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from penstock_worker.cli.output import print_json
from penstock_worker.health import Health, read_health
from penstock_worker.settings import load_settings

__all__ = ["register"]

_EXIT_UNHEALTHY = 1


class Of(StrEnum):
    """Whom to ask after."""

    INGEST = "ingest"
    MAINTENANCE = "maintenance"
    BEAT = "beat"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("health")(health)


def health(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    is_for_ready: Annotated[bool, typer.Option("--ready", help="Exit with 1 also if one is not ready.")] = False,
    of: Annotated[Of | None, typer.Option("--of", help="Only workers for this, or only beats.")] = None,
) -> None:
    """
    Tell whether the workers and beats of this host work; exit code 1 if one stands still, or if there is none.

    It reads the files of PENSTOCK_HEALTH_FOLDER and asks neither broker nor database, so it fits a container's health check.
    One that waits for either works, and is not ready.
    """
    settings, now = load_settings(), time.time()
    seen = [each for each in read_health(settings.health_folder, settings.queue) if of is None or each.does == of]
    if as_json:
        print_json(_describe(seen, now))
    else:
        for each in seen:
            typer.echo(_line(each, now))
        if not seen:
            what = "worker and no beat" if of is None else of.value
            typer.echo(f"no {what} of {settings.queue} has written its health into {settings.health_folder}")
    if not seen or any(each.trouble(now) or (is_for_ready and each.not_ready) for each in seen):
        raise typer.Exit(_EXIT_UNHEALTHY)


def _describe(seen: Sequence[Health], now: float) -> dict[str, Any]:
    told = [(each.does, {**asdict(each), "trouble": each.trouble(now)}) for each in seen]
    return {
        "status": _status(seen, now),
        "time": datetime.fromtimestamp(now, UTC),
        "workers": [facts for does, facts in told if does != "beat"],
        "beats": [facts for does, facts in told if does == "beat"],
        "persistence": {"status": _database_status(seen, now), "backend": "postgresql"},
    }


def _status(seen: Sequence[Health], now: float) -> str:
    if not seen or any(each.trouble(now) for each in seen):
        return "unhealthy"
    return "degraded" if any(each.not_ready for each in seen) else "healthy"


def _database_status(seen: Sequence[Health], now: float) -> str:
    """As far as those know that move: one that finds it away or not migrated is believed."""
    moving = [each for each in seen if each.trouble(now) is None]
    if any(each.database_why for each in moving):
        return "unhealthy"
    return "healthy" if any(each.is_consuming for each in moving) else "unknown"


def _line(seen: Health, now: float) -> str:
    trouble = seen.trouble(now)
    if trouble and seen.stalled_since:
        return f"{seen.worker} stands still since {datetime.fromtimestamp(seen.stalled_since, UTC):%F %T} UTC: {trouble}"
    if trouble:
        return f"{seen.worker}: {trouble}"
    if seen.paused_why:
        return f"{seen.worker} is paused, {seen.paused_why}"
    return f"{seen.worker} is not ready: {'; '.join(seen.not_ready)}" if seen.not_ready else f"{seen.worker} works"
