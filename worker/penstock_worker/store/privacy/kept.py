"""What an erasure must not write over: rows on legal hold, and rows that name somebody else by now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from psycopg import sql

from penstock_schemas.record import RecordType
from penstock_schemas.registry import Registry
from penstock_worker.store.connection import Connection
from penstock_worker.store.legal_holds import on_hold
from penstock_worker.store.privacy.erased import ERASED
from penstock_worker.store.privacy.fences import subject_text

__all__ = ["Grave", "Graves", "keys_as", "look_at_graves", "table_of"]


class Grave(NamedTuple):
    """Where a tombstone is to be written: a key, up to which version, and who was erased if the type itself tells."""

    key: tuple[Any, ...]
    version: int
    subject: str | None


@dataclass(slots=True)
class Graves:
    """Places in the list that was asked about: `spared` must not be written over, `known` are erased as far already."""

    spared: set[int] = field(default_factory=set)
    known: set[int] = field(default_factory=set)


def look_at_graves(connection: Connection, registry: Registry, record: RecordType, graves: Sequence[Grave]) -> Graves:
    """See `Graves`; one statement, in the transaction that writes the tombstones."""
    subject = record.declaration.subject
    is_others: sql.Composable = sql.SQL("false")
    if subject:
        is_others = sql.SQL("coalesce(r.{}::text <> g.subject, false)").format(sql.Identifier(subject))
    query = sql.SQL(
        "SELECT g.place - 1, {is_others} OR {held}, coalesce(r._deleted_event = {erased} AND r._deleted_version >= g.version,"
        " false) FROM {table} AS r JOIN unnest({arrays}, %s::bigint[], %s::text[]) WITH ORDINALITY"
        " AS g ({keys}, version, subject, place) ON {same}"
    ).format(
        is_others=is_others,
        held=on_hold(registry, record),
        erased=ERASED,
        table=table_of(record),
        arrays=keys_as(record, "%s::{}[]"),
        keys=sql.SQL(", ").join(sql.Identifier(f"_{name}") for name in record.key),
        same=sql.SQL(" AND ").join(
            sql.SQL("r.{} = g.{}").format(sql.Identifier(name), sql.Identifier(f"_{name}")) for name in record.key
        ),
    )
    columns = [[subject_text(value) for value in values] for values in zip(*(grave.key for grave in graves), strict=True)]
    rows = connection.execute(query, [*columns, [g.version for g in graves], [g.subject for g in graves]])
    found = Graves()
    for place, is_spared, is_known in rows:
        if is_spared:
            found.spared.add(int(str(place)))
        if is_known:
            found.known.add(int(str(place)))
    return found


def table_of(record: RecordType) -> sql.Identifier:
    """A type's table."""
    return sql.Identifier(*record.declaration.table.split("."))


def keys_as(record: RecordType, form: str) -> sql.Composed:
    """A text for each column of the key, with its kind in it."""
    return sql.SQL(", ").join(sql.SQL(form.format(record.by_name[name].kind)) for name in record.key)
