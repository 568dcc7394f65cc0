"""Whom a dead letter is about, as far as its payload can be read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from psycopg import sql
from pydantic_core import from_json

from penstock_schemas.record import RecordType
from penstock_schemas.registry import Registry
from penstock_worker.store.connection import Connection
from penstock_worker.store.privacy.erased import ERASED
from penstock_worker.store.privacy.fences import KINDS, Fences, forms_of, subject_of
from penstock_worker.store.privacy.kept import table_of

__all__ = ["Said", "erased_among", "what_it_says"]


class Said(NamedTuple):
    """What an event says that need not be valid: its type, its data, and its version, 0 if that cannot be read."""

    record: RecordType
    data: dict[str, Any]
    version: int

    def text(self, name: str) -> str | None:
        """A field's value as its column has it as text; None where it is none of its kind."""
        kind, value = self.record.by_name[name].kind, self.data.get(name)
        if kind not in KINDS or not isinstance(value, str | int) or isinstance(value, bool):
            return None
        return forms_of(str(value)).get(kind)


def what_it_says(payload: bytes, registry: Registry) -> Said | None:
    """Read one event's bytes; None where they do not tell of a type that is known."""
    try:
        content = from_json(payload)
    except ValueError:
        return None
    if not isinstance(content, dict) or not isinstance(content.get("data"), dict):
        return None
    record = registry.get(content["type"]) if isinstance(content.get("type"), str) else None
    if record is None:
        return None
    version = content.get("version")
    return Said(record, content["data"], version if type(version) is int else 0)


def erased_among(connection: Connection, said: Sequence[Said | None], fences: Fences, registry: Registry) -> list[bool]:
    """Which events the fence refuses: by their subject, by their own row's tombstone, or by their parent's."""
    is_erased = [one is not None and _is_fenced(one, fences) for one in said]
    graves: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, one in enumerate(said):
        if one is not None and not is_erased[place] and not one.record.declaration.is_audit_log:
            for name, key in _graves(one):
                graves[name][key].append(place)
    for name, places in graves.items():
        for key, version in _erased_rows(connection, registry[name], places):
            for place in places[key]:
                one = said[place]
                is_erased[place] |= one is not None and one.version <= version
    return is_erased


def _is_fenced(said: Said, fences: Fences) -> bool:
    subject = subject_of(said.record)
    text = said.text(subject) if subject else None
    return text is not None and said.version <= fences.version(said.record.by_name[str(subject)].kind, text)


def _graves(said: Said) -> Iterator[tuple[str, str]]:
    """The types and keys of rows whose tombstone refuses the event: its own, and its parent's."""
    declaration = said.record.declaration
    if len(said.record.key) == 1 and not declaration.append_only:
        key = said.text(said.record.key[0])
        if key is not None:
            yield said.record.name, key
    if declaration.parent:
        key = said.text(declaration.parent.field)
        if key is not None:
            yield declaration.parent.type, key


def _erased_rows(connection: Connection, record: RecordType, keys: Iterable[str]) -> list[tuple[str, int]]:
    (key,) = record.key
    query = sql.SQL(
        "SELECT {key}::text, _deleted_version FROM {table} WHERE {key} = ANY (%s::{kind}[]) AND _deleted_event = {erased}"
    )
    composed = query.format(
        key=sql.Identifier(key), table=table_of(record), kind=sql.SQL(str(record.by_name[key].kind)), erased=ERASED
    )
    return [(str(found), int(str(version))) for found, version in connection.execute(composed, [list(keys)])]
