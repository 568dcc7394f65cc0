"""
From messages to blocks: our envelopes and CloudEvents, of which every event is as usual.

Whatever is not, and be it one event, keeps its whole message out of the blocks: `decode` then reads it closely.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from math import isqrt
from operator import attrgetter
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import msgspec
from msgspec.structs import asdict

from penstock_schemas.answer import MAX_QUERY_RANGES
from penstock_schemas.wire import MAX_EVENTS_PER_MESSAGE, VERSION, event_id_prefix
from penstock_worker.ingest.block import Block, joined
from penstock_worker.ingest.cloudevents import event_id, is_batch, is_cloudevents, version_of
from penstock_worker.ingest.forms import check_times
from penstock_worker.ingest.message import Envelope, Message, envelope_of
from penstock_worker.ingest.odd import Odd
from penstock_worker.ingest.shape import Rows, Shape
from penstock_worker.ingest.validate import MAX_SEQ, Validators

__all__ = ["BlockReader"]

#: What reading raises where it is not sure, and whatever else: the validators decide then, and a batch's result tells how many
#: of its events were read without them.
_ODD = Exception


class _Untyped(msgspec.Struct, tag_field="type", tag=""):
    """What no event is; without it, where there is one type alone, msgspec would not ask that an event names it."""

    never: Annotated[int, msgspec.Meta(ge=1, le=0)]


class _Opened(NamedTuple):
    """A message with events, whose values have not been looked at yet; `head` is None for CloudEvents."""

    message: Message
    head: Any
    events: Sequence[Any]


class BlockReader:
    """Reads messages as blocks; one per process."""

    def __init__(self, validators: Validators) -> None:
        shapes = [shape for shape in map(Shape, validators.records.values()) if shape.is_readable]
        self._shapes = {struct: shape for shape in shapes for struct in (shape.own, shape.foreign)}
        own, foreign = _union(shape.own for shape in shapes), _union(shape.foreign for shape in shapes)
        fields: list[tuple[str, Any, Any]] = [*_HEAD, ("events", list.__class_getitem__(own), ())]
        self._envelopes = msgspec.json.Decoder(msgspec.defstruct("Envelope", fields, forbid_unknown_fields=True, gc=False))
        self._cloudevent: Any = msgspec.json.Decoder(foreign)
        self._cloudevents: Any = msgspec.json.Decoder(list.__class_getitem__(foreign))

    def read(self, messages: Iterable[Message]) -> tuple[list[Envelope], list[Block]]:
        """The blocks of messages, and the envelopes of those of which nothing wants a closer look; only these are in them."""
        parts = self._read_parts([each for message in messages if (each := self._open(message))])
        if len(parts) == 1:
            return parts[0]
        return [envelope for found, _ in parts for envelope in found], joined(block for _, blocks in parts for block in blocks)

    def _read_parts(self, opened: Sequence[_Opened]) -> list[tuple[list[Envelope], list[Block]]]:
        """All together, or around what is odd: in ever smaller parts, so that it costs the others a second reading at most."""
        try:
            return [self._read(opened)]
        except _ODD:
            step = isqrt(len(opened))
        if len(opened) == 1:
            return []
        places = range(0, len(opened), step)
        return [part for place in places for part in self._read_parts(opened[place : place + step])]

    def _open(self, message: Message) -> _Opened | None:
        """None where there is nothing in it, or it is odd at first sight."""
        head: Any = None
        try:
            if not is_cloudevents(message):
                head = self._envelopes.decode(message.body)
                events = head.events
            elif is_batch(message):
                events = self._cloudevents.decode(message.body)
            else:
                events = [self._cloudevent.decode(message.body)]
        except _ODD:
            return None
        return _Opened(message, head, events) if events else None

    def _read(self, opened: Iterable[_Opened]) -> tuple[list[Envelope], list[Block]]:
        """All in one go: what is done for a message alone costs more than what is done for an event among many."""
        envelopes: list[Envelope] = []
        rows, foreign = Rows(), Rows()
        for message, head, events in opened:
            if head is None:
                envelopes.append(_add_foreign(foreign, message, events))
            else:
                envelopes.append(_add_own(rows, message, head, events))
        rows.versions += map(attrgetter("version"), rows.events)
        foreign.versions += _versions_of([event.time for event in foreign.events])
        rows.extend(foreign)
        return envelopes, [block for kind, part in rows.by_kind() for block in self._shapes[kind].blocks(part)]


def _add_own(rows: Rows, message: Message, head: Any, events: Sequence[Any]) -> Envelope:
    count, seq = len(events), head.seq
    if count > MAX_EVENTS_PER_MESSAGE or seq + count > MAX_SEQ + 1:
        raise Odd("too many events")
    envelope = envelope_of(message, asdict(head), count)
    prefix = event_id_prefix(head.epoch)
    rows.events += events
    rows.envelopes += [envelope] * count
    rows.ids += [f"{prefix}{number:012x}" for number in range(seq, seq + count)]
    return envelope


def _add_foreign(rows: Rows, message: Message, events: Sequence[Any]) -> Envelope:
    envelope = Envelope(message, events[0].source, count=len(events))
    rows.events += events
    rows.envelopes += [envelope] * len(events)
    rows.ids += [event_id(event.source, event.id) for event in events]
    return envelope


def _versions_of(times: Sequence[str]) -> list[int]:
    if times:
        check_times(times)
    versions = [version_of(datetime.fromisoformat(time)) for time in times]
    if min(versions, default=0) < 0:
        raise Odd("before 1970")
    return versions


def _union(structs: Iterable[type[msgspec.Struct]]) -> Any:
    union: Any = _Untyped
    for struct in structs:
        union |= struct
    return union


_Seq = Annotated[int, msgspec.Meta(ge=0, le=MAX_SEQ)]
#: The head of an envelope, which is no laxer than `Validators.head`; Python's `$` would let a line end through.
_HEAD: list[tuple[str, Any, Any]] = [
    ("v", Literal[VERSION], msgspec.NODEFAULT),
    ("producer", Annotated[str, msgspec.Meta(max_length=200, pattern=r"\A[^\x00-\x1f]*\Z")], msgspec.NODEFAULT),
    ("epoch", UUID, msgspec.NODEFAULT),
    ("seq", _Seq, msgspec.NODEFAULT),
    ("dropped", list[tuple[_Seq, _Seq, Annotated[str, msgspec.Meta(pattern=r"\A[a-z_]{1,50}\Z")]]], ()),
    ("reply_to", str | None, None),
    ("closed", bool, False),
    ("query", Annotated[list[tuple[_Seq, _Seq]], msgspec.Meta(max_length=MAX_QUERY_RANGES)], ()),
]
