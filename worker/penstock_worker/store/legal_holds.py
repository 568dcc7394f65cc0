"""
Legal holds: what must not be deleted, whatever its age and whoever asks; placed and released by people.

| hold on    | columns       | keeps                                                              |
|------------|---------------|--------------------------------------------------------------------|
| a row      | type, key     | the row and, recursively, its children                             |
| a type     | type          | all rows of the type and, recursively, their children              |
| a person   | subject       | every row that names the person as its subject, and their children |
| of a type  | type, subject | the person's rows of that type, and their children                 |

A key is a JSON array of its values as PostgreSQL writes them as text, in the order of the key's columns. Released holds stay in
the table, as a record of what was kept when.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from penstock_schemas.record import RecordType
from penstock_schemas.registry import Registry
from penstock_worker.errors import ConfigurationError
from penstock_worker.store.connection import Connection
from penstock_worker.store.key_words import key_texts

__all__ = ["LegalHold", "keep_holds", "key_as_json", "list_holds", "may_concern", "on_hold", "place_hold", "release_hold"]

_COLUMNS = sql.SQL("id, type, key, subject, reason, placed_by, placed_at, released_by, released_at")


@dataclass(frozen=True, slots=True)
class LegalHold:
    """One row of `penstock.legal_holds`."""

    id: int
    type: str | None
    key: list[str] | None
    subject: str | None
    reason: str
    placed_by: str
    placed_at: datetime
    released_by: str | None
    released_at: datetime | None


def on_hold(registry: Registry, record: RecordType, alias: str = "r", *, with_parents: bool = True) -> sql.Composed:
    """
    The SQL condition that a row is on hold: itself, by its whole type, by its subject, or because its parent is.

    Args:
        registry: Knows the parents.
        record: The row's type.
        alias: What the row's table is called in the query.
        with_parents: Without, where it is known already that no parent is on hold.

    Returns:
        True or false for every row, never NULL, and without parameters. Without holds it costs next to nothing: the holds are
        looked up by hash, parents by their key.

    It sees what was committed when its statement began; `keep_holds` before it keeps new ones from being missed.
    """
    parts = [_by_type(record), _by_key(record, alias)]
    parts += [_by_subject(record, alias)] if record.declaration.subject else []
    parts += [_by_parent(registry, record, alias)] if record.declaration.parent and with_parents else []
    # The first part is asked once a statement: without holds nothing else is asked at all.
    return sql.SQL("(EXISTS (SELECT FROM penstock.legal_holds WHERE released_at IS NULL) AND ({}))").format(
        sql.SQL(" OR ").join(parts)
    )


def keep_holds(connection: Connection) -> None:
    """
    Let nobody place a hold until the transaction ends; for those who delete, at the beginning of a short transaction.

    Thus `place_hold` returns only when every deletion that could not know of the hold is over.
    """
    connection.execute("LOCK TABLE penstock.legal_holds IN SHARE MODE")


def may_concern(record: RecordType) -> sql.Composed:
    """The SQL condition on a hold `h` that it may keep rows of a type that has no parent."""
    about = sql.SQL("h.subject IS NULL" if record.declaration.subject is None else "true")
    return sql.SQL("(h.released_at IS NULL AND coalesce(h.type, {0}) = {0} AND {1})").format(record.name, about)


def key_as_json(record: RecordType, alias: str = "r") -> sql.Composed:
    """The SQL of a row's key as holds write it; sessions are in UTC, so that equal times are equal texts."""
    return sql.SQL("jsonb_build_array({})").format(
        sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(alias, name)) for name in record.key)
    )


def place_hold(
    connection: Connection,
    registry: Registry,
    *,
    type: str | None = None,
    key: Sequence[str] = (),
    subject: str | None = None,
    reason: str,
    placed_by: str,
) -> LegalHold:
    """
    Keep rows from now on; what was deleted is gone, and what is still to come is kept too.

    Args:
        connection: In autocommit.
        registry: Of the record types.
        type: The type; None with a subject: every type.
        key: One text for each column of the key; none for all rows.
        subject: The person; not together with a key.
        reason: Why, in a person's words.
        placed_by: Who.

    Raises:
        ConfigurationError: That cannot be held; the message says what to do.
    """
    wanted = _checked_key(connection, registry, type, key, subject)
    query = sql.SQL(
        "INSERT INTO penstock.legal_holds (type, key, subject, reason, placed_by) VALUES ({}, {}, {}, {}, {}) RETURNING {}"
    ).format(type, wanted, subject, reason, placed_by, _COLUMNS)
    with connection.cursor(row_factory=class_row(LegalHold)) as cursor:
        hold = cursor.execute(query).fetchone()
    assert hold is not None  # RETURNING gives a row
    return hold


def release_hold(connection: Connection, hold_id: int, released_by: str) -> LegalHold:
    """
    End a hold; what it kept goes when its time comes.

    Raises:
        ConfigurationError: There is no such hold, or it has been released.
    """
    query = sql.SQL(
        "UPDATE penstock.legal_holds SET released_by = {}, released_at = now()"
        " WHERE id = {} AND released_at IS NULL RETURNING {}"
    ).format(released_by, hold_id, _COLUMNS)
    with connection.cursor(row_factory=class_row(LegalHold)) as cursor:
        hold = cursor.execute(query).fetchone()
    if hold is None:
        raise ConfigurationError(f"no hold {hold_id} is in force: `penstock retention holds` lists those that are")
    return hold


def list_holds(connection: Connection, *, with_released: bool = False) -> list[LegalHold]:
    """The holds in force, or all there ever were, in the order of their ids."""
    condition = sql.SQL("true" if with_released else "released_at IS NULL")
    query = sql.SQL("SELECT {} FROM penstock.legal_holds WHERE {} ORDER BY id").format(_COLUMNS, condition)
    with connection.cursor(row_factory=class_row(LegalHold)) as cursor:
        return cursor.execute(query).fetchall()


# Each is of the form that PostgreSQL answers by a hash of the few holds; one condition for all of them it would try hold by
# hold, for every row. The subselects hold no NULL, so that the answer is never NULL.


def _by_type(record: RecordType) -> sql.Composed:
    return sql.SQL(
        "EXISTS (SELECT FROM penstock.legal_holds h"
        " WHERE h.released_at IS NULL AND h.type = {} AND h.key IS NULL AND h.subject IS NULL)"
    ).format(record.name)


def _by_key(record: RecordType, alias: str) -> sql.Composed:
    return sql.SQL(
        "{} IN (SELECT h.key FROM penstock.legal_holds h WHERE h.released_at IS NULL AND h.type = {} AND h.key IS NOT NULL)"
    ).format(key_as_json(record, alias), record.name)


def _by_subject(record: RecordType, alias: str) -> sql.Composed:
    return sql.SQL(
        "({subject} IS NOT NULL AND {subject}::text IN (SELECT h.subject FROM penstock.legal_holds h"
        " WHERE h.released_at IS NULL AND h.subject IS NOT NULL AND coalesce(h.type, {type}) = {type}))"
    ).format(subject=sql.Identifier(alias, str(record.declaration.subject)), type=record.name)


def _by_parent(registry: Registry, record: RecordType, alias: str) -> sql.Composed:
    parent = record.declaration.parent
    assert parent is not None, "the caller has looked"
    parent_type, above = registry[parent.type], f"{alias}_parent"
    return sql.SQL("EXISTS (SELECT FROM {table} {above} WHERE {key} = {field} AND {held})").format(
        table=sql.Identifier(*parent_type.declaration.table.split(".")),
        above=sql.Identifier(above),
        key=sql.Identifier(above, parent_type.key[0]),
        field=sql.Identifier(alias, parent.field),
        held=on_hold(registry, parent_type, above),
    )


def _checked_key(
    connection: Connection, registry: Registry, type: str | None, key: Sequence[str], subject: str | None
) -> Jsonb | None:
    """The key as rows have it: `0042` is 42 where the column is a number."""
    if type is None and subject is None:
        raise ConfigurationError("say what to hold: --type, with --key for a single row, or --subject for a person")
    if subject == "":
        raise ConfigurationError("--subject is empty: that is nobody")
    record = _record(registry, type) if type is not None else None
    if record is None or not key:
        if key:
            raise ConfigurationError("a key is of a type: say --type with --key")
        if subject is not None and record is not None and record.declaration.subject is None:
            raise ConfigurationError(f"{type} names no person: hold it by --key, or as a whole")
        return None
    if subject is not None:
        raise ConfigurationError("a row is held by its key, whoever it is about: leave out --subject")
    if len(key) != len(record.key):
        raise ConfigurationError(f"{type} has the key ({', '.join(record.key)}): give --key {len(record.key)} times")
    return Jsonb(key_texts(connection, record, key))


def _record(registry: Registry, type: str) -> RecordType:
    if type not in registry:
        raise ConfigurationError(f"there is no type {type!r}; there are {', '.join(registry)}")
    return registry[type]
