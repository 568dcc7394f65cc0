"""Beat's tasks. Each is idempotent, bounded, and locks itself, so that it may run twice at once without harm."""

from __future__ import annotations

import logging
from typing import Any

import psycopg
from celery import Celery

from penstock_schemas.record import RecordType
from penstock_schemas.registry import Registry
from penstock_worker.maintenance.adopt import adopt_spools
from penstock_worker.maintenance.held import HeldTask
from penstock_worker.settings import Settings
from penstock_worker.store.connection import Connection, connect_with
from penstock_worker.store.partitions import ensure_partitions

__all__ = ["beat_schedule", "register_maintenance"]

logger = logging.getLogger(__name__)

#: Seconds between two looks whether partitions must be made; they are made two months ahead.
PARTITIONS_EVERY_S = 3600


def beat_schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """What beat sends, and how often. A run that is not taken before the next one is due expires."""
    every_s = {
        "partitions": ("penstock.make_partitions", PARTITIONS_EVERY_S),
        "adopt": ("penstock.adopt_spools", settings.adopt_every_s),
        "held": ("penstock.replay_held", settings.held_replay_every_s),
    }
    return {
        name: {"task": task, "schedule": seconds, "options": {"expires": seconds}} for name, (task, seconds) in every_s.items()
    }


def register_maintenance(app: Celery, settings: Settings, registry: Registry) -> None:
    """Make the maintenance tasks of the app."""
    held = HeldTask(settings, registry)

    @app.task(name="penstock.make_partitions", ignore_result=True)  # type: ignore[untyped-decorator]  # celery has no types
    def make_partitions() -> dict[str, Any]:
        """Make the partitions of the months ahead; they are there already, usually. Safe to run twice."""
        connect = connect_with(settings)
        try:
            with connect() as connection:
                made = [name for record in registry.values() for name in _make_partitions(connection, record)]
        except psycopg.OperationalError as exc:
            logger.warning("partitions are made at the next run, the database is away: %s", exc)
            return {"away": str(exc)}
        return {"made": made}

    @app.task(name="penstock.replay_held", ignore_result=True)  # type: ignore[untyped-decorator]  # celery has no types
    def replay_held_letters() -> dict[str, Any]:
        """Replay held letters that can be stored by now; at most `held_letters_per_run`. Safe to run twice."""
        return held.run()

    @app.task(name="penstock.adopt_spools", ignore_result=True)  # type: ignore[untyped-decorator]  # celery has no types
    def adopt() -> dict[str, Any]:
        """Send what killed producers left in the spool folder; for at most `adopt_time_limit_s`. Safe to run twice."""
        return adopt_spools(settings)

    del make_partitions, replay_held_letters, adopt  # they live in app.tasks


def _make_partitions(connection: Connection, record: RecordType) -> list[str]:
    try:
        return ensure_partitions(connection, record)
    except psycopg.errors.LockNotAvailable:
        logger.info("partitions of %s are made at the next run, the table is in use", record.name)
        return []
