"""
Children of erased rows that came before their parent's tombstone was written.

Whoever writes a tombstone of a type with children notes its key in `penstock.erased_parents`, in the same transaction. A
sweep waits for the batches that may not have seen the tombstone, empties the children, and notes those that have children
themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg import sql

from penstock_schemas.registry import Registry
from penstock_worker.store.connection import Connection
from penstock_worker.store.privacy.erased import ERASED
from penstock_worker.store.privacy.kept import table_of

__all__ = ["note_erased", "note_unemptied"]


def note_erased(connection: Connection, type: str, versions: Mapping[Any, int]) -> None:
    """Remember rows whose children are to be emptied, with the version up to which they were erased."""
    if versions:
        connection.execute(
            "INSERT INTO penstock.erased_parents (type, key, version) SELECT %s, * FROM unnest(%s::text[], %s::bigint[])",
            [type, list(map(str, versions)), list(versions.values())],
        )


def note_unemptied(connection: Connection, registry: Registry) -> None:
    """Remember the erased rows below which something is left: it was on hold when they were erased, and may be no more."""
    for child in registry.values():
        if child.declaration.parent is None:
            continue
        parent = registry[child.declaration.parent.type]
        query = sql.SQL(
            "INSERT INTO penstock.erased_parents (type, key, version)"
            " SELECT {type}, p.{key}::text, p._deleted_version FROM {parents} AS p WHERE p._deleted_event = {erased}"
            " AND EXISTS (SELECT FROM {children} AS r WHERE r.{field} = p.{key} AND r._version IS NOT NULL"
            " AND r._oldest <= p._deleted_version"
            " AND NOT coalesce(r._deleted_event = {erased} AND r._deleted_version >= p._deleted_version, false))"
        )
        connection.execute(
            query.format(
                type=parent.name,
                key=sql.Identifier(parent.key[0]),
                parents=table_of(parent),
                erased=ERASED,
                children=table_of(child),
                field=sql.Identifier(child.declaration.parent.field),
            )
        )
