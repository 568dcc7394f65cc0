"""
Whom dead letters are about, as far as their payload can be read.

A letter is one event, or a whole message. An event is a person's by its subject, by its own key or by its parent's, if the row
there is the person's. Bytes that cannot be read are nobody's: they are kept as long as any dead letter, and no longer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast
from uuid import UUID

import psycopg
from psycopg import sql
from pydantic_core import from_json, to_json

from penstock_schemas.column import Kind
from penstock_schemas.record import RecordType
from penstock_schemas.registry import Registry
from penstock_worker.store.connection import Connection
from penstock_worker.store.dead_letters import Letter
from penstock_worker.store.ledger import Entry, merge_entries, record_entries
from penstock_worker.store.letter_filter import LetterFilter
from penstock_worker.store.privacy.erased import ERASED
from penstock_worker.store.privacy.fences import KINDS, Fences, forms_of, subject_of
from penstock_worker.store.privacy.kept import table_of
from penstock_worker.store.privacy.person import about
from penstock_worker.store.privacy.spans import event_spans
from penstock_worker.store.sqlstate import Answer, answer_to
from penstock_worker.store.stored_letters import BEFORE_ALL, read_page

__all__ = ["Said", "empty_erased", "erase_letters", "erased_among", "erased_keys", "persons_letters", "what_it_says"]

#: Letters, and bytes of their payloads, that are looked at together.
PAGE_LETTERS = 500
PAGE_BYTES = 8 * 1024 * 1024


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
        text = str(value)
        # No column holds it, and no query takes it.
        return None if "\0" in text else forms_of(text).get(kind)


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
    """Which events the fence refuses; those of audit logs it lets through."""

    def is_refused(one: Said) -> bool:
        return _refused_up_to(one, fences) is not None

    erased = sql.SQL("r._deleted_event = {} AND r._deleted_version >= g.version").format(ERASED)
    open_ones = [None if one is None or one.record.declaration.is_audit_log else one for one in said]
    return _among(connection, open_ones, registry, is_refused, lambda _: erased)


def _refused_up_to(said: Said, fences: Fences) -> int | None:
    """Up to which version the person is refused whom an event names; None where it may be stored."""
    subject = subject_of(said.record)
    text = said.text(subject) if subject else None
    if text is None:
        return None
    version = fences.version(said.record.by_name[str(subject)].kind, text)
    # An event that is wrong may have a version below that of nobody's fence, -1.
    return version if version >= 0 and said.version <= version else None


def _persons_among(
    connection: Connection, said: Sequence[Said | None], forms: Mapping[Kind, str], registry: Registry
) -> list[bool]:
    """Which events are about a person."""

    def names(one: Said) -> bool:
        subject = one.record.declaration.subject
        return subject is not None and one.text(subject) in {forms.get(one.record.by_name[subject].kind)} - {None}

    return _among(connection, said, registry, names, lambda record: about(registry, record, forms))


def _among(
    connection: Connection,
    said: Sequence[Said | None],
    registry: Registry,
    is_meant: Callable[[Said], bool],
    condition: Callable[[RecordType], sql.Composable],
) -> list[bool]:
    """Which events are meant themselves, or belong to a row `r` of which a condition holds; `g.version` is the event's."""
    found = [one is not None and is_meant(one) for one in said]
    asked: dict[str, list[tuple[int, str, int]]] = defaultdict(list)
    for place, one in enumerate(said):
        if one is not None and not found[place]:
            for name, key in _rows_of(one):
                asked[name].append((place, key, one.version))
    for name, places in asked.items():
        for place in _places_with(connection, registry[name], places, condition(registry[name])):
            found[place] = True
    return found


def _rows_of(said: Said) -> Iterator[tuple[str, str]]:
    """The types and keys of the rows that an event belongs to: its own, and its parent."""
    declaration = said.record.declaration
    if len(said.record.key) == 1 and not declaration.append_only:
        key = said.text(said.record.key[0])
        if key is not None:
            yield said.record.name, key
    if declaration.parent:
        key = said.text(declaration.parent.field)
        if key is not None:
            yield declaration.parent.type, key


def _places_with(
    connection: Connection, record: RecordType, asked: Sequence[tuple[int, str, int]], condition: sql.Composable
) -> list[int]:
    (key,) = record.key
    query = sql.SQL(
        "SELECT g.place FROM unnest(%s::integer[], %s::{kind}[], %s::numeric[]) AS g (place, key, version)"
        " JOIN {table} AS r ON r.{key} = g.key WHERE {condition}"
    ).format(kind=sql.SQL(str(record.by_name[key].kind)), table=table_of(record), key=sql.Identifier(key), condition=condition)
    columns = [list(values) for values in zip(*asked, strict=True)]
    try:
        with connection.transaction():
            return [int(str(place)) for (place,) in connection.execute(query, columns)]
    except psycopg.Error as exc:
        # A table that is not migrated yet has no rows of anybody.
        if answer_to(exc) is not Answer.TABLE:
            raise
        return []


class _Part(NamedTuple):
    """One event of a letter, and where it is in the payload; the whole of it where the letter is one event."""

    letter: Letter
    payload: bytes
    span: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class PersonsLetter:
    """A letter, or that part of it, which is about a person."""

    letter: Letter
    payload: bytes


def persons_letters(connection: Connection, forms: Mapping[Kind, str], registry: Registry) -> Iterator[PersonsLetter]:
    """Every event of a person in a dead letter, one by one; a page of letters is in memory."""
    for page in _pages(connection):
        parts = [part for letter in page for part in _parts(letter)]
        said = [what_it_says(part.payload, registry) for part in parts]
        chosen = zip(parts, _persons_among(connection, said, forms, registry), strict=True)
        yield from (PersonsLetter(part.letter, part.payload) for part, is_meant in chosen if is_meant)


def erased_keys(connection: Connection, fences: Fences, registry: Registry) -> Iterator[tuple[RecordType, str, int]]:
    """
    The rows that letters call an erased person's, with the version up to which: children may hang below them all the same.

    Rows of types with a key of one column, which may have children.
    """
    for page in _pages(connection):
        came = _when_they_came(connection, page)
        for letter in page:
            for part in _parts(letter):
                said = _as_it_came(what_it_says(part.payload, registry), came.get(letter.id, 0))
                if said is None or len(said.record.key) > 1:
                    continue
                key, version = said.text(said.record.key[0]), _refused_up_to(said, fences)
                if key is not None and version is not None:
                    yield said.record, key, version


def erase_letters(
    connection: Connection, fences: Fences, registry: Registry, tell: Callable[[int], None] = lambda _: None
) -> int:
    """
    Delete the letters of events that the fence refuses; in a letter of a whole message only they lose their content.

    Returns:
        How many events.
    """
    erased = 0
    for page in _pages(connection):
        parts = [part for letter in page for part in _parts(letter)]
        came = _when_they_came(connection, page)
        said = [_as_it_came(what_it_says(part.payload, registry), came.get(part.letter.id, 0)) for part in parts]
        meant = [
            (part, one)
            for part, one, is_meant in zip(parts, said, erased_among(connection, said, fences, registry), strict=True)
            # What has been cut is of no further interest.
            if is_meant and one is not None and (part.span is None or not one.data.keys() <= set(one.record.key))
        ]
        _delete(connection, [part.letter.id for part, _ in meant if part.span is None])
        _cut(connection, ((part, one) for part, one in meant if part.span is not None))
        erased += len(meant)
        tell(len(page))
    return erased


def _delete(connection: Connection, letters: Sequence[UUID]) -> None:
    """The ledger says then how their events ended: as dead or held they would lack a letter."""
    query = "DELETE FROM penstock.dead_letters WHERE id = ANY (%s) RETURNING epoch, seq"
    with connection.transaction():
        gone = cast("list[tuple[UUID | None, int]]", connection.execute(query, [letters]).fetchall())
        entries = (Entry(epoch, "fenced", None, seq, seq) for epoch, seq in gone if epoch is not None)
        record_entries(connection, merge_entries(entries))


def _cut(connection: Connection, parts: Iterable[tuple[_Part, Said]]) -> None:
    """Leave of events in whole messages what they are about, and nothing that they say."""
    letters: dict[UUID, list[tuple[_Part, Said]]] = defaultdict(list)
    for part, said in parts:
        letters[part.letter.id].append((part, said))
    for letter_id, cuts in letters.items():
        payload = _without(cuts[0][0].letter.payload, cuts)
        connection.execute("UPDATE penstock.dead_letters SET payload = %s WHERE id = %s", [payload, letter_id])


def empty_erased(connection: Connection, letter: Letter, fences: Fences, registry: Registry) -> bytes:
    """The payload of a whole message that is to become a letter; the events in it that the fence refuses lose their content."""
    parts = list(_parts(letter))
    said = [what_it_says(part.payload, registry) for part in parts]
    refused = erased_among(connection, said, fences, registry)
    cuts = [(part, one) for part, one, is_refused in zip(parts, said, refused, strict=True) if is_refused and one is not None]
    return _without(letter.payload, cuts) if cuts else letter.payload


def _without(payload: bytes, cuts: Sequence[tuple[_Part, Said]]) -> bytes:
    """A whole message, with these of its events emptied."""
    text = payload.decode()
    for part, said in reversed(cuts):
        begin, end = cast("tuple[int, int]", part.span)
        text = text[:begin] + _emptied(said) + text[end:]
    return text.encode()


def _emptied(said: Said) -> str:
    """A delete of the key: should the message be read one day, that is what the event amounts to."""
    data = {name: said.data.get(name) for name in said.record.key if not said.record.declaration.append_only}
    return to_json({"type": said.record.name, "op": "delete", "version": said.version, "data": data}).decode()


def _when_they_came(connection: Connection, letters: Sequence[Letter]) -> dict[UUID, int]:
    query = "SELECT id, (extract(epoch FROM at) * 1000000)::bigint FROM penstock.dead_letters WHERE id = ANY (%s)"
    return dict(cast("list[tuple[UUID, int]]", connection.execute(query, [[letter.id for letter in letters]]).fetchall()))


def _as_it_came(said: Said | None, came: int) -> Said | None:
    """What came before the fence was said before it, however far ahead its producer's clock was."""
    return said and said._replace(version=min(said.version, came))


def _pages(connection: Connection) -> Iterator[list[Letter]]:
    after = BEFORE_ALL
    while page := read_page(connection, LetterFilter(), after, PAGE_LETTERS, PAGE_BYTES):
        yield page
        after = page[-1].id


def _parts(letter: Letter) -> Iterator[_Part]:
    if letter.event_id is not None:
        yield _Part(letter, letter.payload, None)
        return
    try:
        text = letter.payload.decode()
        spans = event_spans(text)
    except ValueError:
        return
    yield from (_Part(letter, text[begin:end].encode(), (begin, end)) for begin, end in spans)
