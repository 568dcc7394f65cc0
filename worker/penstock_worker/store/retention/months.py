"""
Months of append-only types that are out of their window: dropped as a whole, which takes a moment however many rows they have.

A month is dropped when its last instant is out of the window, and not while a row in it is on hold. Then its other rows go one
by one, and the month when the hold is released.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import psycopg
from psycopg import sql

from penstock_schemas.record import RecordType
from penstock_schemas.registry import Registry
from penstock_worker.store.connection import Connection
from penstock_worker.store.legal_holds import keep_holds, may_concern, on_hold
from penstock_worker.store.months import kept_months
from penstock_worker.store.partitions import Partition, list_partitions

__all__ = ["drop_month", "holds_rows", "may_be_held", "months_to_drop", "partition_table"]

#: To drop a month locks its whole table, and all writers wait behind who waits for a lock.
_LOCK_TIMEOUT_MS = 100
TRIES = 10
PAUSE_S = 0.2


def months_to_drop(connection: Connection, record: RecordType, now: datetime) -> list[Partition]:
    """The months out of the window, the oldest first."""
    begin, _ = kept_months(record, now)
    return [month for month in list_partitions(connection, record) if begin is not None and month.end <= begin]


def partition_table(record: RecordType, month: Partition) -> sql.Identifier:
    """A month's own table."""
    return sql.Identifier(record.declaration.schema, month.name)


def may_be_held(connection: Connection, record: RecordType) -> bool:
    """Whether a hold may concern rows of a type."""
    return bool(_holds(connection, record))


def holds_rows(connection: Connection, registry: Registry, record: RecordType, month: Partition) -> bool:
    """Whether a row of a month is on hold. Where a hold may concern it, all of it may have to be read."""
    if not may_be_held(connection, record):
        return False
    with connection.transaction():
        connection.execute("SET LOCAL statement_timeout = 0; SET LOCAL enable_seqscan = on")
        query = sql.SQL("SELECT EXISTS (SELECT FROM {} r WHERE {})")
        found = connection.execute(query.format(partition_table(record, month), on_hold(registry, record))).fetchone()
    return found == (True,)


def drop_month(
    connection: Connection, registry: Registry, record: RecordType, month: Partition, sleep: Callable[[float], None]
) -> bool:
    """
    Drop a month, unless a row in it is on hold.

    Args:
        connection: In autocommit.
        registry: Of the record types.
        record: The append-only type.
        month: Out of the window.
        sleep: Waits between tries.

    Returns:
        Whether it is gone; not where a row is on hold, nor where the table was in use at each of some tries.
    """
    for _ in range(TRIES):
        known = _holds(connection, record)
        if holds_rows(connection, registry, record, month):
            return False
        try:
            if _drop(connection, record, month, known):
                return True
        except psycopg.errors.LockNotAvailable:
            sleep(PAUSE_S)
    return False


def _drop(connection: Connection, record: RecordType, month: Partition, known: list[int]) -> bool:
    with connection.transaction():
        connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(_LOCK_TIMEOUT_MS))
        keep_holds(connection)
        if _holds(connection, record) != known:  # one was placed since the rows were looked at
            return False
        connection.execute(sql.SQL("DROP TABLE {}").format(partition_table(record, month)))
    return True


def _holds(connection: Connection, record: RecordType) -> list[int]:
    """The holds that may concern rows of a type."""
    query = sql.SQL("SELECT id FROM penstock.legal_holds h WHERE {} ORDER BY id").format(may_concern(record))
    return [int(str(number)) for (number,) in connection.execute(query)]
