"""The task that replays held letters once they can be stored."""

from __future__ import annotations

import logging
from typing import Any

import psycopg

from penstock_schemas.registry import Registry
from penstock_worker.errors import DatabaseAway
from penstock_worker.ingest.write import Writer
from penstock_worker.letters.held import HeldReplay
from penstock_worker.settings import Settings
from penstock_worker.store.connection import connect_with

__all__ = ["replay_held"]

logger = logging.getLogger(__name__)

#: Held by the session that runs it; any fixed number that nobody else uses.
_LOCK = 0x70656E68656C


def replay_held(settings: Settings, registry: Registry) -> dict[str, Any]:
    """
    Replay held letters, a bounded number of them. Safe to run twice; while one run lasts, a second one does nothing.

    Returns:
        Letters, and events by outcome; or why nothing could be done.
    """
    writer = Writer.of(settings, registry)
    try:
        with connect_with(settings)() as connection:
            if connection.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK]).fetchone() != (True,):
                return {"skipped": "another run is under way"}
            done = HeldReplay(connection, writer, settings).run()
    except (DatabaseAway, psycopg.OperationalError) as exc:
        logger.warning("held letters are replayed at the next run, the database is away: %s", exc)
        return {"away": str(exc)}
    finally:
        writer.database.close()
    if done["letters"]:
        logger.info("held letters replayed: %s", done, extra={"action": "held_replayed", **done})
    return done
