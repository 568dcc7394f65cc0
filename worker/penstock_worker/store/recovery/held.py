"""
What was heard of records in held letters: events that came and cannot be stored yet, for a clock is ahead or a table is
missing.

They are activity that no row shows: without a look at them the sessions of a service whose clock is ahead would be stale.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from penstock_schemas.record import RecordType
from penstock_schemas.registry import Registry
from penstock_worker.store.connection import Connection
from penstock_worker.store.recovery.tree import descents

__all__ = ["spoken_keys"]

#: Letters that are read, and the bytes of each; where there is more, nothing is concluded of the type at all.
LETTERS_READ, LETTER_BYTES = 1_000, 64 * 1024


def spoken_keys(connection: Connection, registry: Registry, record: RecordType, since: datetime) -> set[str] | None:
    """
    The records that held letters since then are about, or about a child of them: their keys as the text of PostgreSQL's JSON.

    Returns:
        None where that cannot be told, and any may be meant: there are too many letters, or one is of a grandchild, which does
        not name it, or cannot be read.
    """
    below = {descent.record.name: descent for descent in descents(registry, record)}
    letters: Any = connection.execute(
        "SELECT type, substring(payload FOR %s), octet_length(payload) FROM penstock.dead_letters"
        " WHERE state = 'held' AND type = ANY (%s) AND at > %s LIMIT %s",
        [LETTER_BYTES, [record.name, *below], since, LETTERS_READ + 1],
    ).fetchall()
    is_unclear = any(size > LETTER_BYTES or (type in below and len(below[type].path) > 2) for type, _, size in letters)
    if is_unclear or len(letters) > LETTERS_READ:
        return None
    try:
        keys = [_key(registry, record, type, json.loads(bytes(payload))["data"]) for type, payload, _ in letters]
        # As the rows have them: a producer may write the same number or UUID otherwise.
        typed = [sql.SQL("(k ->> {})::{}::text").format(n, sql.SQL(kind)) for n, kind in enumerate(_kinds(record))]
        query = sql.SQL("SELECT jsonb_build_array({})::text FROM unnest(%s::jsonb[]) AS k").format(sql.SQL(", ").join(typed))
        return {str(text) for (text,) in connection.execute(query, [list(map(Jsonb, keys))]).fetchall()}
    except (ValueError, LookupError, TypeError, RecursionError, psycopg.DataError):
        return None


def _kinds(record: RecordType) -> list[str]:
    return [str(record.by_name[name].kind) for name in record.key]


def _key(registry: Registry, record: RecordType, type: str, data: dict[str, Any]) -> list[str]:
    parent = registry[type].declaration.parent
    if type == record.name or parent is None:
        return [str(data[name]) for name in record.key]
    return [str(data[parent.field])]
