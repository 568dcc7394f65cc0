"""What messages say of one record type, and how their events become blocks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import astuple

from penstock_schemas.column import Column, Kind
from penstock_schemas.record import RecordType
from penstock_worker.ingest.block import Block
from penstock_worker.ingest.forms import field_of, knows_neighbours
from penstock_worker.ingest.message import Envelope
from penstock_worker.ingest.odd import Odd
from penstock_worker.store.copy_text import NULL

__all__ = ["Rows", "Shape"]

T = TypeVar("T")


@dataclass(slots=True)
class Rows:
    """Events as msgspec read them, and where each is from; every list has one element an event."""

    events: list[Any] = field(default_factory=list)
    envelopes: list[Envelope] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)

    def extend(self, other: Rows) -> None:
        """Take over all of the other's."""
        self.events += other.events
        self.envelopes += other.envelopes
        self.versions += other.versions
        self.ids += other.ids

    def by_kind(self) -> Iterable[tuple[type, Rows]]:
        """The same, apart by the struct that an event is."""
        return self.apart(list(map(type, self.events)))

    def apart(self, marks: Sequence[T]) -> Iterable[tuple[T, Rows]]:
        """The same, apart by the mark of each event."""
        places: dict[T, list[int]] = defaultdict(list)
        for place, mark in enumerate(marks):
            places[mark].append(place)
        if len(places) == 1:
            yield marks[0], self
            return
        for mark, chosen in places.items():
            yield (
                mark,
                Rows(
                    _picked(chosen, self.events),
                    _picked(chosen, self.envelopes),
                    _picked(chosen, self.versions),
                    _picked(chosen, self.ids),
                ),
            )


def _picked(places: Iterable[int], values: Sequence[T]) -> list[T]:
    return [values[place] for place in places]


#: What CloudEvents often say besides, and means nothing here.
_ATTRIBUTES = ("datacontenttype", "dataschema", "subject", "traceparent", "tracestate")
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


class Shape:
    """
    One record type as msgspec reads it.

    `own` and `foreign` are the structs of its events in our envelopes and in CloudEvents; both have the record as `data`.
    """

    def __init__(self, record: RecordType) -> None:
        self._record = record
        self._fields = {column.name: field_of(column, is_indexed=column.name in record.indexed) for column in record.columns}
        fields: list[tuple[str, Any, Any]] = [
            (name, field.wire_type | UnsetType, UNSET) for name, field in self._fields.items()
        ]
        data = msgspec.defstruct("Data", fields, forbid_unknown_fields=True, gc=False)
        parent = record.declaration.parent
        self._required = (*record.key, *([parent.field] if parent else []))
        #: An append-only record's time may be part of its key: as an instant, for it can be written in more than one way.
        self._time = record.declaration.append_only
        #: An append-only record without an id takes its event's.
        self._defaulted = [
            name for name in record.key if record.declaration.append_only and record.by_name[name].kind is Kind.UUID
        ]
        version = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
        self.own = self._event([("op", Literal["upsert"]), ("version", version), ("data", data)])
        self.foreign = self._event(
            [
                *(("specversion", Literal["1.0"]), ("id", _Text), ("source", _Text), ("time", str), ("data", data)),
                ("op", Literal["upsert"], "upsert"),
                *((name, str | None, None) for name in _ATTRIBUTES),
            ]
        )

    def _event(self, fields: Sequence[Any]) -> type[msgspec.Struct]:
        # What is skipped is not looked at, and might not even be text: the validators would refuse it.
        return msgspec.defstruct("Event", fields, tag_field="type", tag=self._record.name, forbid_unknown_fields=True, gc=False)

    @property
    def is_readable(self) -> bool:
        """Whether events can be read in columns: each for itself, and with rows that are sorted by the texts of their key."""
        if any(map(knows_neighbours, self._record.columns)):
            return False
        if any(self._fields[name].wire_type is msgspec.Raw for name in self._defaulted):
            return False  # an event's id is no JSON
        return all(name == self._time or self._record.by_name[name].kind in _TO_VALUE for name in self._required)

    def blocks(self, rows: Rows) -> list[Block]:
        """
        The events as blocks.

        Raises:
            ValueError: One of them wants a closer look.
        """
        contents = [astuple(event.data) for event in rows.events]
        columns = dict(zip(self._fields, zip(*contents, strict=True), strict=True))
        for name in self._defaulted:
            if columns[name].count(UNSET) == len(rows.ids):
                columns[name] = tuple(rows.ids)
        unset = {name: values.count(UNSET) for name, values in columns.items()}
        if any(0 < count < len(rows.ids) for count in unset.values()):
            marks = [tuple([value is UNSET for value in content]) for content in contents]
            return [block for _, part in rows.apart(marks) for block in self.blocks(part)]
        return [self._block(rows, {name: values for name, values in columns.items() if not unset[name]})]

    def _block(self, rows: Rows, columns: dict[str, tuple[Any, ...]]) -> Block:
        texts = {name: self._fields[name].texts(values) for name, values in columns.items()}
        if any(NULL in texts.get(name, (NULL,)) for name in self._required):
            raise Odd("no key")
        times = list(map(datetime.fromisoformat, texts[self._time])) if self._time else []
        key = [self._record.by_name[name] for name in self._record.key]
        parts = [times if column.name == self._time else _ordered(column, texts[column.name]) for column in key]
        return Block(
            self._record,
            rows.envelopes,
            rows.versions,
            rows.ids,
            texts,
            list(zip(*parts, strict=True)),
            self._parents(texts),
            (min(times), max(times)) if times else None,
        )

    def _parents(self, texts: dict[str, list[str]]) -> list[Any]:
        parent = self._record.declaration.parent
        return _values(self._record.by_name[parent.field], texts[parent.field]) if parent else []


def _ordered(column: Column, texts: list[str]) -> Iterable[int | str]:
    _check_written_as_read(texts)
    return map(int, texts) if column.kind is Kind.BIGINT else texts


def _values(column: Column, texts: list[str]) -> list[Any]:
    """What the texts of a parent's key stand for; it has many children."""
    _check_written_as_read(texts)
    values = {text: _TO_VALUE[column.kind](text) for text in set(texts)}
    return [values[text] for text in texts]


def _check_written_as_read(texts: Iterable[str]) -> None:
    if "\\" in "".join(texts):
        raise Odd("a key that has been escaped")


_TO_VALUE: dict[Kind, Callable[[str], Any]] = {Kind.TEXT: str, Kind.BIGINT: int, Kind.UUID: UUID}
