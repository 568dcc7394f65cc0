"""
Unknown fields that have a column by now: from `_extra` into the column, with their stamp.

A newer producer's field waits in `_extra` until the migration that adds its column moves it. Old workers that still run then go
on filling `_extra`, so the same move is made again after every `penstock migrate up`.

A value that validation would not have taken for the column stays in `_extra`. Casts alone are too kind: 'now'::timestamptz is a
time, and a text without a zone becomes one in the session's.
"""

from __future__ import annotations

from collections.abc import Iterable

from penstock_schemas.column import Column, Kind, Rule
from penstock_schemas.record import RecordType

from penstock_worker.store.connection import Connection
from penstock_worker.store.upsert import UpsertPlan, literal, quote

__all__ = ["promote_all", "promote_extra"]

#: What the JSON value `j`, as the text `v`, must look like before it is cast.
_LOOKS_RIGHT = {
    Kind.TEXT: "jsonb_typeof(j) = 'string'",
    Kind.BIGINT: r"v ~ '^-?\d{1,19}$'",
    Kind.DOUBLE: r"v ~* '^-?\d+(\.\d+)?(e[+-]?\d+)?$'",
    Kind.NUMERIC: r"v ~* '^-?\d+(\.\d+)?(e[+-]?\d+)?$'",
    Kind.BOOLEAN: "v IN ('true', 'false')",
    Kind.TIMESTAMPTZ: r"v ~ '^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d(:?\d\d)?)$'",
    Kind.DATE: r"v ~ '^\d{4}-\d\d-\d\d$'",
    Kind.UUID: "v ~* '^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$'",
}


def promote_all(connection: Connection, record: RecordType) -> int:
    """Move every field that has a column by now, in the declaration and in the table; returns how many values were moved."""
    plan = UpsertPlan(record)
    rows = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped", [plan.table]
    ).fetchall()
    present = {str(name) for (name,) in rows}
    return _promote(connection, plan, [column for column in record.values if column.name in present])


def promote_extra(connection: Connection, record: RecordType, name: str) -> int:
    """
    Move one field; returns how many values were moved.

    The column must exist. Where it has a value already, the stamps decide; where it is NULL, the field's value is taken: the
    events that did not have the field came from producers that did not know it.
    """
    return _promote(connection, UpsertPlan(record), [record.by_name[name]])


def _promote(connection: Connection, plan: UpsertPlan, columns: Iterable[Column]) -> int:
    """Only fields that occur are worth a statement; the index on rows with unknown fields makes looking cheap."""
    if not plan.table_exists(connection):
        return 0
    found = connection.execute(
        f"SELECT DISTINCT jsonb_object_keys(_extra) FROM {plan.table} WHERE _extra IS NOT NULL"
    ).fetchall()
    unknown = {str(name) for (name,) in found}
    moved = 0
    with connection.transaction():
        for column in columns:
            if column.name in unknown:
                connection.execute(_cast_function(column.kind))
                moved += connection.execute(_update(plan, column)).rowcount
    return moved
