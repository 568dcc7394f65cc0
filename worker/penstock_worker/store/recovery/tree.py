"""
The SQL of a record and what hangs below it: who is open, who is cared for by its parent, and when any of them last changed.

Everything is about one row, called `r`. Below it are its type's declared children, theirs, and so on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from psycopg import sql

from penstock_schemas.record import RecordType
from penstock_schemas.registry import Registry
from penstock_worker.store.connection import Connection
from penstock_worker.store.recovery.rules import Rule

__all__ = [
    "Descent",
    "activity",
    "descents",
    "is_cared_for",
    "is_open",
    "key_column",
    "same_key",
    "state_of",
    "table_of",
    "without_table",
]


@dataclass(frozen=True, slots=True)
class Descent:
    """The way from a record down to its descendants of one type: the types on it, the root first, the last being theirs."""

    path: tuple[RecordType, ...]

    @property
    def record(self) -> RecordType:
        """The type at the end of the way."""
        return self.path[-1]

    def rows(self, alias: str) -> sql.Composed:
        """The FROM and WHERE of the descendants of `r`, as `alias`."""
        names = ["r", *(f"{alias}_{place}" for place in range(1, len(self.path) - 1)), alias]
        links = [
            sql.SQL("{} = {}").format(_parent_column(record, name), key_column(above, name_above))
            for record, name, above, name_above in zip(self.path[1:], names[1:], self.path, names, strict=False)
        ]
        tables = [
            sql.SQL("{} AS {}").format(table_of(record), sql.Identifier(name))
            for record, name in zip(self.path[1:], names[1:], strict=True)
        ]
        return sql.SQL("FROM {} WHERE {}").format(sql.SQL(", ").join(tables), sql.SQL(" AND ").join(links))


def descents(registry: Registry, record: RecordType) -> Iterator[Descent]:
    """The ways down from a type, children before grandchildren."""
    waiting: list[tuple[RecordType, ...]] = [(record,)]
    while waiting:
        path = waiting.pop(0)
        if len(path) > 1:
            yield Descent(path)
        for child in registry.values():
            parent = child.declaration.parent
            if parent is not None and parent.type == path[-1].name:
                waiting.append((*path, child))


def without_table(connection: Connection, registry: Registry, record: RecordType) -> list[str]:
    """Of a type and those below it, the ones whose tables are still to be made."""
    records = [record, *(descent.record for descent in descents(registry, record))]
    tables = {one.name: table_of(one).as_string(connection) for one in records}
    query = "SELECT t FROM unnest(%s::text[]) AS t WHERE to_regclass(t) IS NULL"
    missing = {table for (table,) in connection.execute(query, [list(tables.values())]).fetchall()}
    return [name for name, table in tables.items() if table in missing]


def activity(registry: Registry, record: RecordType) -> sql.Composed:
    """
    When `r` or anything below it last changed, by the database's clock.

    Not by versions: these are the clocks of services, of which any may be hours wrong.
    """
    below = [
        sql.SQL("(SELECT max(below._stored_at) {})").format(descent.rows("below")) for descent in descents(registry, record)
    ]
    return sql.SQL("GREATEST({})").format(sql.SQL(", ").join([sql.SQL("r._stored_at"), *below]))


def is_open(rule: Rule, alias: str = "r") -> sql.Composed:
    """Whether a record has neither ended nor been given up; one whose state was never told has not."""
    return sql.SQL("({state} IS NULL OR {state} NOT IN ({over}))").format(
        state=state_of(rule, alias), over=sql.SQL(", ").join(map(sql.Literal, rule.over))
    )


def state_of(rule: Rule, alias: str = "r") -> sql.Identifier:
    """The column of the state."""
    return sql.Identifier(alias, rule.lifecycle.field)


def is_cared_for(rules: Mapping[str, Rule], record: RecordType) -> sql.Composable:
    """Whether `r` is recovered together with its parent: that is open, or its recovery is not over yet."""
    parent = record.declaration.parent
    rule = rules.get(parent.type) if parent else None
    if rule is None:
        return sql.SQL("false")
    return sql.SQL(
        "(EXISTS (SELECT FROM {table} AS p WHERE {key} = {field} AND p._version IS NOT NULL AND {is_open})"
        " OR EXISTS (SELECT FROM penstock.recoveries AS o"
        " WHERE o.type = {type} AND o.key = jsonb_build_array({field}::text) AND o.ended_at IS NULL))"
    ).format(
        table=table_of(rule.record),
        key=key_column(rule.record, "p"),
        field=_parent_column(record, "r"),
        is_open=is_open(rule, "p"),
        type=rule.record.name,
    )


def same_key(record: RecordType, key: sql.Composable, alias: str = "r") -> sql.Composed:
    """Whether a row has the key that is a JSON array of texts, as `legal_holds.key_as_json` makes it; by the key's index."""
    return sql.SQL(" AND ").join(
        sql.SQL("{} = ({} ->> {})::{}").format(sql.Identifier(alias, name), key, place, sql.SQL(str(record.by_name[name].kind)))
        for place, name in enumerate(record.key)
    )


def table_of(record: RecordType) -> sql.Identifier:
    """The table of a type."""
    return sql.Identifier(record.declaration.schema, record.declaration.table_name)


def key_column(record: RecordType, alias: str) -> sql.Identifier:
    """The key of a type that has children."""
    return sql.Identifier(alias, record.key[0])


def _parent_column(record: RecordType, alias: str) -> sql.Identifier:
    parent = record.declaration.parent
    assert parent is not None, "only children are asked"
    return sql.Identifier(alias, parent.field)
