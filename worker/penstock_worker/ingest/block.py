"""
Events that need no closer look, as columns: what the usual message is made of.

A `Block` holds upserts of one type that set the same fields, of all messages of a batch; their values are already the text that
COPY reads, and no object is made of an event. Where one is wanted after all, because its key occurs twice in the batch, because
its time forbids it or because PostgreSQL refuses something, the message leaves its blocks and is read by the validators.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import compress
from operator import attrgetter
from typing import Annotated, Any, Literal, NamedTuple, TypeVar
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import astuple
from pydantic import ValidationError

from penstock_schemas.column import Column, Kind
from penstock_schemas.record import RecordType
from penstock_schemas.wire import MAX_EVENTS_PER_MESSAGE, event_id_prefix
from penstock_worker.ingest.fields import Odd, field_of
from penstock_worker.ingest.message import Envelope, Message, envelope_of
from penstock_worker.ingest.validate import MAX_SEQ, Validators
from penstock_worker.store.copy_text import NULL

__all__ = ["Block", "BlockReader", "Key"]

T = TypeVar("T")
#: What rows are sorted by: the values of the key, UUIDs as text; of an append-only record without the time.
Key = tuple[int | str, ...]

#: What reading raises where it is not sure.
_ODD = (msgspec.MsgspecError, ValidationError, ValueError, RecursionError)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """
    Upserts of one type that set the same fields; every list has one element an event.

    Args:
        texts: The set columns, in the order of the record's, as the text of COPY.
        keys: See `Key`.
        parents: The parents' keys, each once; empty for types without a parent.
        span: The first and the last time of append-only events.
    """

    record: RecordType
    envelopes: list[Envelope]
    versions: list[int]
    ids: list[str]
    texts: dict[str, list[str]]
    keys: list[Key]
    parents: frozenset[Any] = frozenset()
    span: tuple[datetime, datetime] | None = None
    #: Places of events that turned out to be superseded; all others are stored.
    superseded: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.versions)

    @property
    def is_full(self) -> bool:
        """Whether every column is set."""
        return len(self.texts) == len(self.record.columns)

    def without(self, envelopes: Collection[int]) -> Block:
        """The block without the events of some envelopes, which are named by `id`."""
        stays = [id(envelope) not in envelopes for envelope in self.envelopes]

        def rest(values: Iterable[T]) -> list[T]:
            return list(compress(values, stays))

        return replace(
            self,
            envelopes=rest(self.envelopes),
            versions=rest(self.versions),
            ids=rest(self.ids),
            texts={name: rest(texts) for name, texts in self.texts.items()},
            keys=rest(self.keys),
            superseded=set(),
        )

    def index(self, place: int) -> int:
        """The place of an event in its envelope."""
        return int(self.ids[place][-12:], 16) - self.envelopes[place].seq


class _Nothing(msgspec.Struct, tag_field="type", tag=""):
    """An event of no type: of one type alone msgspec would not ask that an event names it."""


class _Read(NamedTuple):
    """A message that was read, its values not looked at yet."""

    envelope: Envelope
    events: list[Any]


class BlockReader:
    """Reads messages as blocks; one per process."""

    def __init__(self, validators: Validators) -> None:
        self._head = validators.head
        self._shapes = {shape.struct: shape for shape in _shapes(validators.records.values())}
        union: Any = _Nothing
        for event in self._shapes:
            union |= event
        fields: list[tuple[str, Any, Any]] = [(name, Any, UNSET) for name in _HEAD]
        envelope = msgspec.defstruct("Envelope", [*fields, ("events", list.__class_getitem__(union), UNSET)], gc=False)
        self._decoder = msgspec.json.Decoder(envelope)

    def read(self, messages: Iterable[Message]) -> tuple[list[Envelope], list[Block]]:
        """The blocks of messages, and the envelopes of those of which nothing wants a closer look; only these are in them."""
        found = [read for message in messages if (read := self._read(message))]
        try:
            blocks = self._blocks(found)
        except _ODD:
            found = [read for read in found if self._is_usual(read)]
            blocks = self._blocks(found)
        return [read.envelope for read in found], blocks

    def _read(self, message: Message) -> _Read | None:
        try:
            content: Any = self._decoder.decode(message.body)
            head = {name: value for name in _HEAD if (value := getattr(content, name)) is not UNSET}
            head = self._head.validate_python(head)
        except _ODD:
            return None
        events = content.events
        if events is UNSET or not 0 < len(events) <= MAX_EVENTS_PER_MESSAGE or head["seq"] + len(events) > MAX_SEQ + 1:
            return None
        return _Read(envelope_of(message, head, len(events)), events)

    def _is_usual(self, read: _Read) -> bool:
        try:
            self._blocks([read])
        except _ODD:
            return False
        return True

    def _blocks(self, found: Iterable[_Read]) -> list[Block]:
        groups: dict[type, _Rows] = defaultdict(_Rows)
        for envelope, events in found:
            ids = _ids(envelope)
            kinds = set(map(type, events))
            for kind in kinds:
                groups[kind].add(envelope, events, ids, None if len(kinds) == 1 else kind)
        return [block for kind, rows in groups.items() for block in self._shapes[kind].blocks(rows)]


def _ids(envelope: Envelope) -> list[str]:
    assert envelope.epoch is not None, "the head has been validated"
    prefix = event_id_prefix(envelope.epoch)
    return [f"{prefix}{number:012x}" for number in range(envelope.seq, envelope.seq + envelope.count)]


@dataclass(slots=True)
class _Rows:
    """Events of one type, and where each is from."""

    events: list[Any] = field(default_factory=list)
    envelopes: list[Envelope] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)

    def add(self, envelope: Envelope, events: Sequence[Any], ids: Sequence[str], only: type | None = None) -> None:
        """Take over the events of an envelope, or `only` those of one type."""
        if only is not None:
            stays = [type(event) is only for event in events]
            events, ids = list(compress(events, stays)), list(compress(ids, stays))
        self.events += events
        self.envelopes += [envelope] * len(events)
        self.ids += ids

    def by_fields(self) -> Iterable[_Rows]:
        """The same, apart by the fields that are set."""
        parts: dict[tuple[bool, ...], _Rows] = defaultdict(_Rows)
        for event, envelope, event_id in zip(self.events, self.envelopes, self.ids, strict=True):
            fields = tuple([value is UNSET for value in _content(event)])
            parts[fields].add(envelope, [event], [event_id])
        return parts.values()


def _content(event: Any) -> tuple[Any, ...]:
    """The values of an event's fields."""
    return astuple(event.data)


#: The fields of an envelope beside its events.
_HEAD = ("v", "producer", "epoch", "seq", "dropped", "reply_to", "closed", "query")


class _Shape:
    """What messages say of one record type, and how it is read."""

    def __init__(self, record: RecordType) -> None:
        self._record = record
        self._fields = {column.name: field_of(column, is_indexed=column.name in record.indexed) for column in record.columns}
        fields: list[tuple[str, Any, Any]] = [
            (name, field.wire_type | UnsetType, UNSET) for name, field in self._fields.items()
        ]
        data = msgspec.defstruct("Data", fields, forbid_unknown_fields=True, gc=False)
        parent = record.declaration.parent
        self._required = (*record.key, *([parent.field] if parent else []))
        self.sorted_by = [name for name in record.key if name != record.declaration.append_only]
        #: An append-only record without an id takes its event's.
        self._defaulted = [
            name for name in record.key if record.declaration.append_only and record.by_name[name].kind is Kind.UUID
        ]
        self.struct = msgspec.defstruct(
            "Event",
            [("op", Literal["upsert"]), ("version", Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]), ("data", data)],
            tag_field="type",
            tag=record.name,
            gc=False,
        )

    def blocks(self, rows: _Rows) -> list[Block]:
        """
        The events as blocks.

        Raises:
            ValueError: One of them wants a closer look.
        """
        columns = dict(zip(self._fields, zip(*map(_content, rows.events), strict=True), strict=True))
        for name in self._defaulted:
            if set(columns[name]) == {UNSET}:
                columns[name] = tuple(rows.ids)
        unset = {name: values.count(UNSET) for name, values in columns.items()}
        if any(0 < count < len(rows.ids) for count in unset.values()):
            return [block for part in rows.by_fields() for block in self.blocks(part)]
        return [self._block(rows, {name: values for name, values in columns.items() if not unset[name]})]

    def _block(self, rows: _Rows, columns: dict[str, tuple[Any, ...]]) -> Block:
        texts = {name: self._fields[name].texts(values) for name, values in columns.items()}
        if any(NULL in texts.get(name, (NULL,)) for name in self._required):
            raise Odd("no key")
        keys = list(zip(*(_ordered(self._record.by_name[name], texts[name]) for name in self.sorted_by), strict=True))
        versions = list(map(attrgetter("version"), rows.events))
        return Block(self._record, rows.envelopes, versions, rows.ids, texts, keys, self._parents(texts), self._span(texts))

    def _parents(self, texts: dict[str, list[str]]) -> frozenset[Any]:
        parent = self._record.declaration.parent
        return _values(self._record.by_name[parent.field], set(texts[parent.field])) if parent else frozenset()

    def _span(self, texts: dict[str, list[str]]) -> tuple[datetime, datetime] | None:
        time = self._record.declaration.append_only
        times = list(map(datetime.fromisoformat, texts[time])) if time else []
        return (min(times), max(times)) if times else None


def _shapes(records: Iterable[RecordType]) -> Iterator[_Shape]:
    """The types whose rows can be sorted by the texts of their key."""
    for record in records:
        shape = _Shape(record)
        if all(record.by_name[name].kind in _TO_VALUE for name in shape.sorted_by):
            yield shape


def _ordered(column: Column, texts: list[str]) -> Iterable[int | str]:
    _check_written_as_read(texts)
    return map(int, texts) if column.kind is Kind.BIGINT else texts


def _values(column: Column, texts: set[str]) -> frozenset[Any]:
    """What the texts of a parent's key stand for."""
    _check_written_as_read(texts)
    if column.kind not in _TO_VALUE:
        raise Odd("a key that is compared otherwise than its text")
    return frozenset(map(_TO_VALUE[column.kind], texts))


def _check_written_as_read(texts: Iterable[str]) -> None:
    if "\\" in "".join(texts):
        raise Odd("a key that has been escaped")


_TO_VALUE: dict[Kind, Callable[[str], Any]] = {Kind.TEXT: str, Kind.BIGINT: int, Kind.UUID: UUID}
