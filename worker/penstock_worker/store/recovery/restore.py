"""Restoring: a record as it is in the database, with everything below it, for the service that goes on with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from psycopg import IsolationLevel, sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from penstock_schemas.record import RecordType
from penstock_schemas.registry import Registry
from penstock_worker.errors import ConfigurationError
from penstock_worker.store.connection import Connection
from penstock_worker.store.queries import visible_rows
from penstock_worker.store.recovery.recoveries import typed_key
from penstock_worker.store.recovery.tree import Descent, descents, same_key, table_of

__all__ = ["Restored", "restore"]

#: Rows that are fetched at a time.
_FETCHED = 500

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Restored:
    """
    A record and what is below it.

    Args:
        record: Its fields.
        children:
            Type and fields of each, type by type, children before grandchildren, ordered by key. Fetched while they are read;
            once, and inside of `restore` only.
    """

    type: str
    record: Row
    children: Iterator[tuple[str, Row]]


@contextmanager
def restore(connection: Connection, registry: Registry, type: str, key: Sequence[str]) -> Iterator[Restored]:
    """
    A record with its children, all as they were at one moment, without Penstock's own columns.

    Args:
        connection: In autocommit; it is in a transaction until the block ends.
        registry: Knows the children.
        type: The record's type; any, not only one with a lifecycle.
        key: Its values as text.

    Raises:
        ConfigurationError: There is no such type, its key is written otherwise, or nobody can see such a record.
    """
    words = typed_key(connection, registry, type, key)
    record = registry[type]
    before = connection.isolation_level
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    try:
        with connection.transaction():
            yield Restored(type, _record(connection, registry, record, words), _children(connection, registry, record, words))
    finally:
        connection.isolation_level = before


def _record(connection: Connection, registry: Registry, record: RecordType, key: list[str]) -> Row:
    query = sql.SQL("SELECT {} {} AND {}").format(
        _fields(record), visible_rows(record, registry), same_key(record, sql.Literal(Jsonb(key)))
    )
    with connection.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(query).fetchone()
    if found is None:
        raise ConfigurationError(f"there is no {record.name} {', '.join(key)}, or it was deleted")
    return found


def _children(connection: Connection, registry: Registry, root: RecordType, key: list[str]) -> Iterator[tuple[str, Row]]:
    for descent in descents(registry, root):
        with connection.cursor(f"children_{len(descent.path)}", row_factory=dict_row) as cursor:
            cursor.itersize = _FETCHED
            for row in cursor.execute(_query(registry, root, descent, key)):
                yield descent.record.name, row


def _query(registry: Registry, root: RecordType, descent: Descent, key: list[str]) -> sql.Composed:
    """The keys first, by the parents' indexes; of them what is visible."""
    record = descent.record
    keys = sql.SQL(", ").join(sql.Identifier("below", name) for name in record.key)
    below = sql.SQL("SELECT {keys} FROM {root} AS r CROSS JOIN LATERAL (SELECT below.* {rows}) AS below WHERE {same}").format(
        keys=keys, root=table_of(root), rows=descent.rows("below"), same=same_key(root, sql.Literal(Jsonb(key)))
    )
    own = sql.SQL(", ").join(sql.Identifier("r", name) for name in record.key)
    return sql.SQL("SELECT {} {} AND ({}) IN ({}) ORDER BY {}").format(
        _fields(record), visible_rows(record, registry), own, below, own
    )


def _fields(record: RecordType) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier("r", column.name) for column in record.columns)
