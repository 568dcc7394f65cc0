"""The task that replays held letters once they can be stored."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import psycopg

from penstock_schemas.registry import Registry
from penstock_worker.errors import DatabaseAway
from penstock_worker.ingest.write import Writer
from penstock_worker.letters.held import HeldReplay
from penstock_worker.settings import Settings
from penstock_worker.store.connection import Connection, connect_with

__all__ = ["HeldTask"]

logger = logging.getLogger(__name__)

#: Held by the session that runs it; any fixed number that nobody else uses.
_LOCK = 0x70656E68656C


@dataclass
class HeldTask:
    """What a pool child keeps between runs: the writer, whose validators take a while to build; its connection is closed."""

    settings: Settings
    registry: Registry

    @cached_property
    def _writer(self) -> Writer:
        return Writer.of(self.settings, self.registry)

    def run(self) -> dict[str, Any]:
        """
        Replay held letters, a bounded number of them. Safe to run twice; while one run lasts, a second one does nothing.

        Returns:
            Letters, and events by outcome; or why nothing could be done.
        """
        try:
            with connect_with(self.settings)() as connection, _alone(connection) as is_alone:
                if not is_alone:
                    return {"skipped": "another run is under way"}
                done = HeldReplay(connection, self._writer, self.settings).run()
        except (DatabaseAway, psycopg.OperationalError) as exc:
            logger.warning("held letters are replayed at the next run, the database is away: %s", exc)
            return {"away": str(exc)}
        finally:
            self._writer.database.close()
        if done["letters"]:
            logger.info("held letters replayed: %s", done, extra={"action": "held_replayed", **done})
        return done


@contextmanager
def _alone(connection: Connection) -> Iterator[bool]:
    """Whether no other run is under way; none begins until this ends."""
    if connection.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK]).fetchone() != (True,):
        yield False
        return
    try:
        yield True
    finally:
        # The server would do it at the connection's end, a moment after it: the next run may be sooner.
        with suppress(psycopg.Error):
            connection.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])
