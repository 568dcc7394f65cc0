"""How large tables are, and how they grow: sizes now, and the readings of `penstock.table_sizes`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from psycopg.rows import class_row

from penstock_worker.store.connection import Connection
from penstock_worker.store.named_tables import PARTS_OF, NamedTable

__all__ = [
    "DATABASE",
    "FINE_DAYS",
    "Growth",
    "TableSize",
    "database_bytes",
    "measure_tables",
    "read_growth",
    "record_sizes",
    "thin_readings",
]

#: The name of the readings of the whole database; every table's has a dot.
DATABASE = "database"
#: Days for which every reading is kept; of the days before, one.
FINE_DAYS = 8
#: A growth per day that is worked out from less would say little.
_SHORTEST = timedelta(hours=1)

# What was never analyzed has -1 for its rows; then the server's counters know better. Partitions are summed up.
_SIZES = f"""
    SELECT asked.name AS name,
           sum(pg_total_relation_size(t.relid))::bigint AS bytes,
           sum(pg_indexes_size(t.relid))::bigint AS index_bytes,
           coalesce(sum(pg_total_relation_size(nullif(c.reltoastrelid, 0))), 0)::bigint AS toast_bytes,
           coalesce(sum(CASE WHEN c.reltuples >= 0 THEN c.reltuples ELSE s.n_live_tup END)
                    FILTER (WHERE c.relkind <> 'p'), 0)::bigint AS rows,
           count(*) FILTER (WHERE c.relispartition)::int AS partitions
    FROM unnest(%s::text[], %s::text[]) AS asked (name, quoted)
    CROSS JOIN LATERAL {PARTS_OF} AS t
    JOIN pg_class AS c ON c.oid = t.relid
    LEFT JOIN pg_stat_all_tables AS s ON s.relid = t.relid
    GROUP BY asked.name ORDER BY bytes DESC, asked.name
"""
# Compared is with the last reading that is as old, if it is not much older: after a pause that were not "since yesterday".
_READINGS = """
    SELECT table_name,
           (array_agg(bytes ORDER BY at DESC) FILTER (WHERE at <= %(now)s - interval '1 day'
                                                        AND at > %(now)s - interval '2 days'))[1],
           (array_agg(bytes ORDER BY at DESC) FILTER (WHERE at <= %(now)s - interval '7 days'))[1],
           (array_agg(bytes ORDER BY at))[1], min(at)
    FROM penstock.table_sizes WHERE at > %(now)s - interval '8 days' AND at <= %(now)s GROUP BY table_name
"""
_THIN = """
    DELETE FROM penstock.table_sizes AS reading
    WHERE at < %(now)s - %(kept)s
       OR (at < %(now)s - %(fine)s AND EXISTS (
            SELECT FROM penstock.table_sizes AS first WHERE first.table_name = reading.table_name
            AND first.at >= date_trunc('day', reading.at, 'UTC') AND first.at < reading.at))
"""


@dataclass(frozen=True, slots=True)
class TableSize:
    """Bytes on disk, `bytes` being all of them, and about how many rows there are."""

    name: str
    bytes: int
    index_bytes: int
    toast_bytes: int
    rows: int
    partitions: int


class Growth(NamedTuple):
    """Bytes that came since then, and a day on average of the last week; None where no reading is old enough."""

    since_yesterday: int | None = None
    since_last_week: int | None = None
    per_day: int | None = None


def measure_tables(connection: Connection, tables: Iterable[NamedTable]) -> list[TableSize]:
    """The tables that are there, the largest first."""
    tables = list(tables)
    parameters = [[table.full_name for table in tables], [table.identifier.as_string() for table in tables]]
    with connection.cursor(row_factory=class_row(TableSize)) as cursor:
        return cursor.execute(_SIZES, parameters).fetchall()


def database_bytes(connection: Connection) -> int:
    """All of the database, PostgreSQL's own tables included; the server's log of changes is not in it."""
    row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    assert row is not None  # a function has a row
    return int(str(row[0]))


def read_growth(connection: Connection, sizes: dict[str, int], now: datetime) -> dict[str, Growth]:
    """
    The growth of what there are readings of.

    Args:
        connection: Any.
        sizes: Bytes now, by name.
        now: When that is.
    """
    growth: dict[str, Growth] = {}
    for name, yesterday, last_week, oldest, oldest_at in connection.execute(_READINGS, {"now": now}):
        if (size := sizes.get(str(name))) is None:
            continue
        elapsed: timedelta = now - oldest_at  # type: ignore[operator]  # a time
        per_day = round((size - _int(oldest)) / (elapsed / timedelta(days=1))) if elapsed >= _SHORTEST else None
        growth[str(name)] = Growth(
            None if yesterday is None else size - _int(yesterday),
            None if last_week is None else size - _int(last_week),
            per_day,
        )
    return growth


def record_sizes(connection: Connection, sizes: Iterable[TableSize], total: int, now: datetime) -> None:
    """Keep what was measured; a second reading of the same moment changes nothing."""
    rows = [(size.name, size.bytes, size.rows) for size in sizes]
    rows.append((DATABASE, total, sum(count for _, _, count in rows)))
    names, sums, counts = zip(*rows, strict=True)
    connection.execute(
        "INSERT INTO penstock.table_sizes (table_name, at, bytes, rows)"
        " SELECT name, %s, bytes, rows FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) AS read (name, bytes, rows)"
        " ON CONFLICT DO NOTHING",
        [now, list(names), list(sums), list(counts)],
    )


def thin_readings(connection: Connection, now: datetime, keep_days: int) -> int:
    """Remove readings older than `keep_days`, and all but the first of each day that is over a week ago; how many."""
    kept = timedelta(days=max(keep_days, FINE_DAYS))
    return connection.execute(_THIN, {"now": now, "kept": kept, "fine": timedelta(days=FINE_DAYS)}).rowcount


def _int(value: object) -> int:
    return int(str(value))
