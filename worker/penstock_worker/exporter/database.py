"""The look at PostgreSQL: measure by measure, each for itself, so that one that is refused hides no other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import psycopg

from penstock_migrations.heads import is_at_heads
from penstock_migrations.packages import parse_locations
from penstock_schemas.registry import Registry
from penstock_worker.errors import ConfigurationError
from penstock_worker.ingest.blame import one_line
from penstock_worker.settings import Settings
from penstock_worker.store.connection import Connection
from penstock_worker.store.measures import MEASURES, Figures, cut_off, open_measuring, take

__all__ = ["DatabaseLook"]

logger = logging.getLogger(__name__)

#: Seconds after which no further measure is begun: those before have been slow.
ENOUGH_S = 2.0
#: Seconds that a measure rests which was refused or took too long: a statement that is cut off costs as much as one that ends.
REST_S = 20.0


class DatabaseLook:
    """
    The `Look` at the database. Its connection stays open from look to look.

    Args:
        settings: The database's URL.
        registry: The record types, whose migrations have to be in place.
        now: A clock that never goes back.
    """

    def __init__(self, settings: Settings, registry: Registry, now: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._registry, self._now = settings, registry, now
        self._locations = parse_locations(settings.migrations)
        self._connection: Connection | None = None
        self._rests_until: dict[str, float] = {}

    def take(self) -> Figures:
        """See `Look`."""
        if self._connection is not None and not self._connection.closed:
            # It may have been cut since the last look, by a restart or a firewall, which is no outage.
            with suppress(psycopg.OperationalError):
                return self._take(self._connection)
        self._connection = open_measuring(self._settings)
        return self._take(self._connection)

    def _take(self, connection: Connection) -> Figures:
        begin, figures = self._now(), Figures()
        for measure in MEASURES:
            if self._now() - begin > ENOUGH_S:
                break
            figures |= self._try(connection, measure.name, partial(take, connection, measure))
        return figures | self._try(connection, "migrations", partial(self._look_at_migrations, connection))

    def give_up(self) -> None:
        """See `Look`."""
        connection = self._connection
        if connection is not None:
            cut_off(connection)

    def close(self) -> None:
        """See `Look`."""
        if self._connection is not None:
            self._connection.close()

    def _try(self, connection: Connection, name: str, ask: Callable[[], Figures]) -> Figures:
        if self._now() < self._rests_until.get(name, 0):
            return {}
        try:
            figures = ask()
        except psycopg.Error as exc:
            if connection.broken or connection.closed:
                with suppress(psycopg.Error):
                    connection.close()
                raise
            if name not in self._rests_until:
                line = one_line(exc)
                logger.warning("%s: not told, the database says: %s", name, line, extra={"action": "measure_refused"})
            self._rests_until[name] = self._now() + REST_S
            return {}
        self._rests_until.pop(name, None)
        return figures

    def _look_at_migrations(self, connection: Connection) -> Figures:
        if is_at_heads(connection, self._registry, self._locations):
            return {"penstock_schema_current": 1}
        from penstock_migrations.run import check_migrated  # loads Alembic, which it takes to tell behind from ahead

        try:
            check_migrated(connection, self._registry, self._locations)
        except ConfigurationError:
            return {"penstock_schema_current": 0}
        return {"penstock_schema_current": 1}
