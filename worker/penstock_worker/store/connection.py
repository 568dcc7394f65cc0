"""One connection to PostgreSQL that comes back by itself, and the transaction of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from penstock_worker.settings import Settings
from penstock_worker.store.upsert import UpsertPlan

__all__ = ["KEEPALIVES", "Connect", "Connection", "Database", "connect_with"]

#: How long sent bytes may stay unacknowledged. Without it a network that swallows them looks like a slow statement for a
#: quarter of an hour, and the process would be killed over it.
TCP_TIMEOUT_MS = 30_000
#: Seconds of silence after which a connection is probed, seconds between probes, and how many may stay unanswered.
KEEPALIVES: dict[str, Any] = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3}

Connection = psycopg.Connection[tuple[object, ...]]
Connect = Callable[[], Connection]


def connect_with(settings: Settings) -> Connect:
    """A factory of connections with the settings' time limits."""
    options = f"-c statement_timeout={int(settings.statement_timeout_s * 1000)} -c timezone=UTC -c synchronize_seqscans=off"

    def connect() -> Connection:
        return psycopg.connect(
            settings.database,
            autocommit=True,
            connect_timeout=max(2, round(settings.connect_timeout_s)),
            options=options,
            application_name="penstock",
            **KEEPALIVES,
            tcp_user_timeout=TCP_TIMEOUT_MS,
        )

    return connect


@dataclass
class Database:
    """
    The database of one process.

    Opens its connection when first needed and again after `close`. Not thread-safe: one per pool child.
    """

    connect: Connect
    _connection: Connection | None = None
    _staged: set[str] = field(default_factory=set)

    def connection(self) -> Connection:
        """
        The open connection.

        Raises:
            psycopg.OperationalError: The database cannot be reached.
        """
        if self._connection is None or self._connection.closed:
            self._staged.clear()
            self._connection = self.connect()
        return self._connection

    def prepare(self, plan: UpsertPlan) -> None:
        """
        Make sure that the plan's staging table exists; call it outside a transaction.

        Raises:
            psycopg.Error: The table itself is missing, or lacks a column.
        """
        connection = self.connection()
        if plan.staging not in self._staged:
            connection.execute(plan.create_staging)
            self._staged.add(plan.staging)

    def has_staging_right(self) -> bool:
        """Whether staging tables may be made at all; without it no table is to blame."""
        query = "SELECT has_database_privilege(current_database(), 'TEMPORARY')"
        return self.connection().execute(query).fetchone() == (True,)

    @contextmanager
    def transaction(self, *, is_rehearsal: bool = False) -> Iterator[Connection]:
        """A transaction, committed at the end and rolled back on any exception; a rehearsal is rolled back in any case."""
        connection = self.connection()
        with connection.transaction(force_rollback=is_rehearsal):
            yield connection

    def close(self) -> None:
        """Forget the connection; the next use opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
