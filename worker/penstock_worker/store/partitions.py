"""
Monthly partitions of append-only tables, made ahead. Old ones are dropped by retention.

Where rows are kept for ever, one more partition takes all that is older than the first month: a backfill of years past.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from penstock_schemas.record import RecordType
from penstock_worker.store.connection import Connection
from penstock_worker.store.months import MONTHS_BACK, kept_months, months_later
from penstock_worker.store.ownership import give_to_owner_of
from penstock_worker.store.upsert import quote

__all__ = ["Partition", "ensure_partitions", "list_partitions", "partition_name"]

#: Held while partitions are made; any fixed number that nobody else uses.
_LOCK = 0x70656E73746F


@dataclass(frozen=True, slots=True)
class Partition:
    """
    One month of a table: its rows are from `begin` on and before `end`; -1 rows: PostgreSQL has not counted them yet.

    Without `begin` it is no month, but all that was before `end`.
    """

    name: str
    begin: datetime | None
    end: datetime
    rows: int
    bytes: int


def partition_name(record: RecordType, month: datetime) -> str:
    """`metrics_y2026m11`; of a long name the table is cut, with a hash to tell it from others, and the month kept whole."""
    return _name(record, f"_y{month.year:04d}m{month.month:02d}")


def _name(record: RecordType, suffix: str) -> str:
    table = record.declaration.table_name
    if len(table) + len(suffix) > 63:
        table = f"{table[: 54 - len(suffix)]}_{zlib.crc32(table.encode()):08x}"
    return table + suffix


def ensure_partitions(connection: Connection, record: RecordType, now: datetime | None = None) -> list[str]:
    """
    Make the partitions that an append-only type lacks; nothing for other types. Safe to run twice, and twice at once.

    Args:
        connection: In autocommit or in a transaction.
        record: The type.
        now: Which month it is; the present by default.

    Returns:
        The names of those that were made; none where the table itself is still to be made.

    Raises:
        psycopg.errors.LockNotAvailable: Somebody uses the table for long; try again for those that are still lacking.
    """
    if record.declaration.append_only is None:
        return []
    past = next((part.end for part in list_partitions(connection, record) if part.begin is None), None)
    months = [month for month in _months(record, now or datetime.now(UTC)) if past is None or past <= month]
    made = [partition_name(record, month) for month in months if _ensure(connection, record, month)]
    if record.declaration.retention is None and past is None:
        made += _ensure_past(connection, record)
    return made


def list_partitions(connection: Connection, record: RecordType) -> list[Partition]:
    """The months of an append-only type's table that there are, the oldest first."""
    rows = connection.execute(
        r"""
        SELECT name, begins[1]::timestamptz, ends[1]::timestamptz, rows, bytes
        FROM (SELECT c.relname::text AS name, c.reltuples::bigint AS rows, pg_total_relation_size(c.oid) AS bytes,
                     regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''([^'']+)''\)') AS begins,
                     regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''([^'']+)''\)') AS ends
              FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = to_regclass(%s)) AS found
        WHERE ends IS NOT NULL ORDER BY 3
        """,
        [f"{quote(record.declaration.schema)}.{quote(record.declaration.table_name)}"],
    )
    return [Partition(*row) for row in rows.fetchall()]  # type: ignore[arg-type]  # the columns' types are known


def _ensure(connection: Connection, record: RecordType, month: datetime) -> bool:
    return _make(connection, record, partition_name(record, month), f"'{month.isoformat()}'", months_later(month, 1))


def _ensure_past(connection: Connection, record: RecordType) -> list[str]:
    name, months = _name(record, "_past"), list_partitions(connection, record)
    return [name] if months and months[0].begin and _make(connection, record, name, "MINVALUE", months[0].begin) else []


def _make(connection: Connection, record: RecordType, name: str, begin: str, end: datetime) -> bool:
    """A transaction a partition: many at once would keep the table locked for long."""
    schema = record.declaration.schema
    parent, partition = (f"{quote(schema)}.{quote(table)}" for table in (record.declaration.table_name, name))
    if _exists(connection, schema, name):
        return False
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        if not _exists(connection, schema, record.declaration.table_name) or _exists(connection, schema, name):
            return False
        # It locks the whole table: behind a long query it would wait, and all writers behind it.
        connection.execute("SET LOCAL lock_timeout = '2s'")
        connection.execute(f"CREATE TABLE {partition} PARTITION OF {parent} FOR VALUES FROM ({begin}) TO ('{end.isoformat()}')")
        give_to_owner_of(connection, parent, partition)
    return True


def _months(record: RecordType, now: datetime) -> Iterator[datetime]:
    begin, end = kept_months(record, now)
    month = begin or months_later(now, -MONTHS_BACK)
    while month < end:
        yield month
        month = months_later(month, 1)


def _exists(connection: Connection, schema: str, table: str) -> bool:
    row = connection.execute("SELECT to_regclass(%s)::text", [f"{quote(schema)}.{quote(table)}"]).fetchone()
    return row is not None and row[0] is not None
