"""
Unknown fields that have a column by now: from `_extra` into the column, with their stamp.

A newer producer's field waits in `_extra` until the migration that adds its column moves it. Old workers that still run then go
on filling `_extra`, so the same move is made again by every `penstock migrate up`.

A value that validation would not take for the column stays in `_extra`. Casts alone are too kind: 'now' is a time to them,
and a time without a zone gets the session's.
"""

from __future__ import annotations

from collections.abc import Iterable

from penstock_schemas.column import Column, Kind, Rule
from penstock_schemas.record import RecordType
from penstock_worker.store.connection import Connection
from penstock_worker.store.upsert import BASES, UpsertPlan, literal, quote

__all__ = ["promote_all", "promote_extra"]

_NUMBER = r"v ~* '^-?\d+(\.\d+)?(e[+-]?\d+)?$'"
#: What a JSON value `j`, as text `v`, must look like before it is cast. What then cannot be cast stays as well.
_LOOKS_RIGHT = {
    Kind.TEXT: "jsonb_typeof(j) = 'string'",
    Kind.BIGINT: r"v ~ '^-?\d+$'",
    Kind.DOUBLE: _NUMBER,
    Kind.NUMERIC: _NUMBER,
    Kind.BOOLEAN: "v IN ('true', 'false')",
    Kind.TIMESTAMPTZ: r"v ~* '^\d{4}-\d\d-\d\d[t ]\d\d:\d\d(:\d\d(\.\d+)?)?(z|[+-]\d\d(:?\d\d)?)$'",
    Kind.DATE: r"v ~ '^\d{4}-\d\d-\d\d$'",
    Kind.UUID: "v ~* '^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$'",
    Kind.JSONB: "true",
}


def promote_all(connection: Connection, record: RecordType) -> int:
    """
    Move every field whose column is both declared and in the table. Safe to run at any time, twice, and beside workers.

    Returns:
        How many values were moved. Those that do not fit their column's type stay, and are not counted.
    """
    plan = UpsertPlan(record)
    with connection.transaction():
        present = _columns_of(connection, plan.table)
        return _promote(connection, plan, [column for column in record.values if column.name in present])


def promote_extra(connection: Connection, record: RecordType, name: str) -> int:
    """Move one field, whose column must exist; see `promote_all`."""
    with connection.transaction():
        return _promote(connection, UpsertPlan(record), [record.by_name[name]])


def _columns_of(connection: Connection, table: str) -> set[object]:
    rows = connection.execute(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped", [table]
    )
    return {name for (name,) in rows}


def _promote(connection: Connection, plan: UpsertPlan, columns: Iterable[Column]) -> int:
    wanted = {column.name: column for column in columns}
    if not wanted:
        return 0
    # The index on rows with unknown fields makes this cheap on a table of any size.
    unknown = connection.execute(f"SELECT DISTINCT jsonb_object_keys(_extra) FROM {plan.table} WHERE _extra IS NOT NULL")
    moved = 0
    for name in sorted(wanted.keys() & {str(name) for (name,) in unknown.fetchall()}):
        connection.execute(_cast_function(wanted[name].kind))
        moved += connection.execute(_update(plan, wanted[name])).rowcount
    return moved


def _cast_name(kind: Kind) -> str:
    return f"pg_temp.promoted_{kind.name.lower()}"


def _cast_function(kind: Kind) -> str:
    """A cast that says no instead of raising; PostgreSQL has one from version 16 on. JSON's null is NULL for every type."""
    cast = "j" if kind is Kind.JSONB else f"v::{kind}"
    return f"""
        CREATE OR REPLACE FUNCTION {_cast_name(kind)}(j jsonb, OUT fits boolean, OUT value {kind}) LANGUAGE plpgsql AS $$
        DECLARE v text := j #>> '{{}}';
        BEGIN
            fits := v IS NULL OR {_LOOKS_RIGHT[kind]};
            IF fits AND v IS NOT NULL THEN value := {cast}; END IF;
        EXCEPTION WHEN data_exception THEN
            fits := false;
        END $$
    """


def _update(plan: UpsertPlan, column: Column) -> str:
    """
    Merge one field of `_extra` into its column.

    Where the column has a value already, the stamps decide. Where it is NULL, the field's value is taken: the newer events that
    did not set the column came from producers that did not know it. Rows are locked in the order of their keys, as workers do.
    """
    name, keys = literal(column.name), [quote(key) for key in plan.record.key]
    order, same = ", ".join(f"t.{key}" for key in keys), " AND ".join(f"t.{key} = found.{key}" for key in keys)
    return f"""
        WITH found AS (
            SELECT {order}, cast_value.value AS value, {_stamp(plan, column)} AS stamp
            FROM {plan.table} AS t, LATERAL {_cast_name(column.kind)}(t._extra -> {name}) AS cast_value
            WHERE t._extra IS NOT NULL AND t._extra ? {name} AND cast_value.fits
            ORDER BY {order} FOR UPDATE OF t
        )
        UPDATE {plan.table} AS t SET
            {quote(column.name)} = {_merged(column)},
            _stamps = penstock.merge_stamps(t._stamps - {literal("+" + column.name)}, {_stamps(column)},
                {plan.bases}, {len(plan.used_bases)}, NULL, penstock.stamp(t._version, t._event)),
            _extra = nullif(t._extra - {name}, '{{}}'),
            _stored_at = now()
        FROM found WHERE {same}
    """


def _merged(column: Column) -> str:
    ours = f"t.{quote(column.name)}"
    if column.rule in (Rule.MIN, Rule.MAX):
        collation = ' COLLATE "C"' if column.kind is Kind.TEXT else ""
        return f"{'LEAST' if column.rule is Rule.MIN else 'GREATEST'}({ours}{collation}, found.value)"
    before = f"coalesce(t._stamps ->> {literal(column.name)}, t._stamps ->> '{BASES.get(column.rule, '@full')}')"
    sign = "<=" if column.rule is Rule.FIRST else ">="
    wins = f'{ours} IS NULL OR {before} IS NULL OR found.stamp {sign} {before} COLLATE "C"'
    return f"CASE WHEN {wins} THEN found.value ELSE {ours} END"


def _stamps(column: Column) -> str:
    """What the field adds to the row's stamps; columns that keep the lowest or highest value have none."""
    if column.rule in (Rule.MIN, Rule.MAX):
        return "NULL"
    return f"jsonb_build_object({literal(column.name)}, found.stamp)"


def _stamp(plan: UpsertPlan, column: Column) -> str:
    """The field's stamp; for a column that moves with the state, with the rank of the event that set it in front."""
    stamp = f"(t._stamps ->> {literal('+' + column.name)})"
    lifecycle = plan.record.declaration.lifecycle
    if column.rule is not Rule.STATE or lifecycle is None:
        return stamp
    if column.name == lifecycle.field:
        states = ", ".join(literal(state) for state in lifecycle.terminal)
        return f"CASE WHEN cast_value.value IN ({states}) THEN '1' ELSE '0' END || {stamp}"
    state = f"coalesce(t._stamps ->> {literal(lifecycle.field)}, t._stamps ->> '@state')"
    return f"CASE WHEN right({state}, 48) = {stamp} THEN left({state}, 1) ELSE '0' END || {stamp}"
