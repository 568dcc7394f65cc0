"""What the database says of one row: whether readers see it, which event made it so, and which dead letters are of its key."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from penstock_schemas import RecordType, Registry
from penstock_worker.errors import ConfigurationError
from penstock_worker.store.connection import Connection
from penstock_worker.store.privacy.erased import ERASED

__all__ = ["LetterSeen", "RowTrace", "find_row_of_event", "letters_of_key", "time_of", "trace_row"]

#: The newest letters of a type that are searched for a key.
LETTERS_SEARCHED = 10_000
#: Letters of one key that are told.
LETTERS_TOLD = 20
#: Milliseconds that one table may be searched for an event: its column has no index.
SEARCH_MS = 5_000

State = Literal["visible", "placeholder", "tombstone", "hidden", "absent"]


@dataclass(frozen=True, slots=True)
class LetterSeen:
    """A dead letter without its payload."""

    id: UUID
    state: str
    reason: str
    detail: str
    event_id: UUID | None
    producer: str | None
    at: datetime


@dataclass(slots=True)
class RowTrace:
    """
    A row of a record type.

    Args:
        state:
            `placeholder`: made for its children, no event of its own has come. `tombstone`: deleted. `hidden`: it fell with its
            parent, which was deleted at `parent_deleted_at`. `absent`: there is none.
        event, version: Of the newest event that lives in it.
        deleted_event, deleted_at: Of its last delete.
        columns_of: Columns whose values are another event's than the newest one's, by that event.
    """

    type: str
    key: dict[str, Any]
    state: State
    event: UUID | None = None
    version: datetime | None = None
    deleted_event: UUID | None = None
    deleted_at: datetime | None = None
    parent_deleted_at: datetime | None = None
    stored_at: datetime | None = None
    columns_of: dict[str, list[str]] = field(default_factory=dict)
    letters: list[LetterSeen] = field(default_factory=list)

    @property
    def is_erased(self) -> bool:
        """Whether it went with a person, so that no event deleted it."""
        return str(self.deleted_event) == ERASED


def time_of(version: int | None) -> datetime | None:
    """A version, which is microseconds since 1970, as a time; None where it is beyond the calendar."""
    try:
        return None if version is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=version)
    except OverflowError:
        return None


def trace_row(connection: Connection, registry: Registry, type: str, words: Sequence[str]) -> RowTrace:
    """
    A row by its key, written as text.

    Raises:
        ConfigurationError: There is no such type, or its key is written otherwise.
    """
    record = registry.get(type)
    if record is None:
        raise ConfigurationError(f"no record type {type!r}; there are: {', '.join(registry)}")
    if len(words) != len(record.key):
        raise ConfigurationError(f"the key of {type} is {', '.join(record.key)}: give {len(record.key)}, not {len(words)}")
    where = sql.SQL(" AND ").join(
        sql.SQL("r.{} = {}::{}").format(sql.Identifier(name), sql.Literal(word), sql.SQL(record.by_name[name].kind.value))
        for name, word in zip(record.key, words, strict=True)
    )
    try:
        found = _find(connection, registry, record, where)
    except psycopg.DataError as exc:
        raise ConfigurationError(f"this is no key of {type}: {str(exc).splitlines()[0]}") from exc
    return found or RowTrace(type, dict(zip(record.key, words, strict=True)), "absent")


def find_row_of_event(connection: Connection, registry: Registry, event_id: UUID) -> tuple[RowTrace | None, list[str]]:
    """
    The row that still holds something of an event, and the types that took too long to search.

    No index leads from an event to its row, so tables are read from end to end, each for `SEARCH_MS` at most.
    """
    unsearched: list[str] = []
    for record in registry.values():
        where = _names_event(record, event_id)
        try:
            with connection.transaction():
                connection.execute(f"SET LOCAL statement_timeout = {SEARCH_MS}".encode())
                found = _find(connection, registry, record, where)
        except psycopg.errors.QueryCanceled:
            unsearched.append(record.name)
        else:
            if found is not None:
                return found, unsearched
    return None, unsearched


def letters_of_key(connection: Connection, record: RecordType, key: dict[str, Any]) -> list[LetterSeen]:
    """Dead letters whose payload has this key, the newest first; of many letters of the type only the newest are searched."""
    needles = [
        [json.dumps(str(value), ensure_ascii=is_ascii).strip('"').encode() for value in key.values()]
        for is_ascii in (True, False)
    ]
    holds = " OR ".join(["(" + " AND ".join(["position(%s::bytea IN payload) > 0"] * len(key)) + ")"] * len(needles))
    query = (
        "SELECT id, state, reason, detail, event_id, producer, at, payload FROM (SELECT * FROM penstock.dead_letters"
        f" WHERE type = %s ORDER BY at DESC LIMIT {LETTERS_SEARCHED}) AS newest WHERE {holds} ORDER BY at DESC"
    )
    letters: list[LetterSeen] = []
    with connection.transaction(), connection.cursor("letters", row_factory=dict_row) as rows:
        rows.itersize = 10  # payloads may be large
        rows.execute(query.encode(), [record.name, *(needle for some in needles for needle in some)])
        for row in rows:
            if _has_key(bytes(row.pop("payload")), key):
                letters.append(LetterSeen(**row))
            if len(letters) == LETTERS_TOLD:
                break
    return letters


def _has_key(payload: bytes, key: dict[str, Any]) -> bool:
    try:
        data = json.loads(payload)["data"]
        return all(str(data[name]) == str(value) for name, value in key.items())
    except (ValueError, LookupError, TypeError, RecursionError):
        return False


def _names_event(record: RecordType, event_id: UUID) -> sql.Composable:
    is_delete = sql.SQL("false" if record.declaration.append_only else "r._deleted_event = {id}")
    return sql.SQL("(r._event = {id} OR r._stamps::text LIKE {hex} OR {is_delete})").format(
        id=sql.Literal(event_id),
        hex=sql.Literal(f"%{event_id.hex}%"),
        is_delete=is_delete.format(id=sql.Literal(event_id)),
    )


def _find(connection: Connection, registry: Registry, record: RecordType, where: sql.Composable) -> RowTrace | None:
    deletes = "NULL, NULL" if record.declaration.append_only else "r._deleted_version, r._deleted_event"
    query = sql.SQL(
        "SELECT {keys}, r._version, r._event, {deletes}, {fallen}, r._stored_at, r._stamps FROM {table} r WHERE {where} LIMIT 1"
    ).format(
        keys=sql.SQL(", ").join(sql.SQL("r.{}").format(sql.Identifier(name)) for name in record.key),
        deletes=sql.SQL(deletes),
        fallen=_parent_deleted(registry, record),
        table=sql.Identifier(*record.declaration.table.split(".")),
        where=where,
    )
    row: Any = connection.execute(query).fetchone()
    if row is None:
        return None
    many = len(record.key)
    version, event, deleted, deleted_event, fallen, stored_at, stamps = row[many:]
    state: State = "visible"
    if version is None:
        state = "placeholder" if deleted is None else "tombstone"
    elif fallen is not None:
        state = "hidden"
    return RowTrace(
        record.name,
        dict(zip(record.key, row[:many], strict=True)),
        state,
        event,
        time_of(version),
        deleted_event,
        time_of(deleted),
        time_of(fallen),
        stored_at,
        _columns_of(stamps),
    )


def _parent_deleted(registry: Registry, record: RecordType) -> sql.Composable:
    """The version of the parent's delete with which the row fell; see `queries.visible_rows`."""
    parent = record.declaration.parent
    if parent is None:
        return sql.SQL("NULL")
    parent_type = registry[parent.type]
    return sql.SQL(
        "(SELECT p._deleted_version FROM {table} p WHERE p.{key} = r.{field} AND p._deleted_version >= r._oldest)"
    ).format(
        table=sql.Identifier(*parent_type.declaration.table.split(".")),
        key=sql.Identifier(parent_type.key[0]),
        field=sql.Identifier(parent.field),
    )


def _columns_of(stamps: dict[str, str] | None) -> dict[str, list[str]]:
    """A stamp ends with its event's id in 32 digits; recovery's is that of the event whose state it replaced, and a plus."""
    columns: dict[str, list[str]] = {}
    for name, stamp in (stamps or {}).items():
        event = "recovery" if stamp.endswith("+") else str(UUID(stamp[-32:]))
        columns.setdefault(event, []).append(name)
    return columns
