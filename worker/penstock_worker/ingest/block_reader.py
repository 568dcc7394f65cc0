"""
From messages to blocks: our envelopes and CloudEvents, of which every event is as usual.

Whatever is not, and be it one event, keeps its whole message out of the blocks: `decode` then reads it closely.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec.structs import asdict, astuple

from penstock_schemas.wire import MAX_EVENTS_PER_MESSAGE, event_id_prefix
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
    """A message whose values have not been looked at yet."""

    envelope: Envelope
    events: Sequence[Any]
    versions: Sequence[int]
    ids: Sequence[str]


class BlockReader:
    """Reads messages as blocks; one per process."""

    def __init__(self, validators: Validators) -> None:
        self._head = validators.head
        shapes = [shape for shape in map(Shape, validators.records.values()) if shape.is_readable]
        self._shapes = {struct: shape for shape in shapes for struct in (shape.own, shape.foreign)}
        own, foreign = _union(shape.own for shape in shapes), _union(shape.foreign for shape in shapes)
        fields: list[tuple[str, Any, Any]] = [*_HEAD, ("events", list.__class_getitem__(own), ())]
        self._envelopes = msgspec.json.Decoder(msgspec.defstruct("Envelope", fields, forbid_unknown_fields=True, gc=False))
        self._cloudevent: Any = msgspec.json.Decoder(foreign)
        self._cloudevents: Any = msgspec.json.Decoder(list.__class_getitem__(foreign))

    def read(self, messages: Iterable[Message]) -> tuple[list[Envelope], list[Block]]:
        """The blocks of messages, and the envelopes of those of which nothing wants a closer look; only these are in them."""
        opened = [found for message in messages if (found := self._open(message))]
        try:
            return _envelopes(opened), self._blocks(opened)
        except _ODD:
            alone = [(message, blocks) for message in opened if (blocks := self._blocks_of_one(message)) is not None]
        return _envelopes(message for message, _ in alone), joined(block for _, blocks in alone for block in blocks)

    def _blocks_of_one(self, message: _Opened) -> list[Block] | None:
        try:
            return self._blocks([message])
        except _ODD:
            return None

    def _open(self, message: Message) -> _Opened | None:
        try:
            return self._open_foreign(message) if is_cloudevents(message) else self._open_own(message)
        except _ODD:
            return None

    def _open_own(self, message: Message) -> _Opened:
        content: Any = self._envelopes.decode(message.body)
        head, events = self._head.validate_python(asdict(content)), content.events
        if not 0 < len(events) <= MAX_EVENTS_PER_MESSAGE or head["seq"] + len(events) > MAX_SEQ + 1:
            raise Odd("no events, or too many")
        envelope, prefix = envelope_of(message, head, len(events)), event_id_prefix(head["epoch"])
        ids = [f"{prefix}{number:012x}" for number in range(envelope.seq, envelope.seq + len(events))]
        return _Opened(envelope, events, list(map(attrgetter("version"), events)), ids)

    def _open_foreign(self, message: Message) -> _Opened:
        body = message.body
        events = self._cloudevents.decode(body) if is_batch(message) else [self._cloudevent.decode(body)]
        if not events:
            raise Odd("no events")
        check_times([event.time for event in events])
        versions = [version_of(datetime.fromisoformat(event.time)) for event in events]
        if min(versions) < 0:
            raise Odd("before 1970")
        envelope = Envelope(message, events[0].source, count=len(events))
        return _Opened(envelope, events, versions, [event_id(event.source, event.id) for event in events])

    def _blocks(self, opened: Iterable[_Opened]) -> list[Block]:
        groups: dict[Shape, Rows] = defaultdict(Rows)
        for envelope, events, versions, ids in opened:
            contents = list(map(_content, events))
            kinds = list(map(type, events))
            for kind in dict.fromkeys(kinds):
                groups[self._shapes[kind]].add_some(envelope, contents, versions, ids, [other is kind for other in kinds])
        return [block for shape, rows in groups.items() for block in shape.blocks(rows)]


def _envelopes(opened: Iterable[_Opened]) -> list[Envelope]:
    return [message.envelope for message in opened]


def _content(event: Any) -> tuple[Any, ...]:
    """The values of an event's fields."""
    return astuple(event.data)


def _union(structs: Iterable[type[msgspec.Struct]]) -> Any:
    union: Any = _Untyped
    for struct in structs:
        union |= struct
    return union


#: The head of an envelope, which is validated apart, with what stands for a field that is not there.
_HEAD: list[tuple[str, Any, Any]] = [
    *((name, Any, None) for name in ("v", "producer", "epoch", "seq", "reply_to")),
    *((name, Any, ()) for name in ("dropped", "query")),
    ("closed", Any, False),
]
