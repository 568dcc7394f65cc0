"""
The wire: one message is one JSON envelope of one or more events.

    {"v": 1, "producer": "billing", "epoch": "<uuid7>", "seq": 4711, "dropped": [[4702, 4706, "buffer_full"]],
     "reply_to": null,
     "events": [{"type": "translation.task", "op": "upsert", "version": 1795222596000000, "data": {...}}, ...]}

`seq` is the number of the first event; the events of an envelope are numbered without gaps. An envelope without events is a
heartbeat: its `seq` is the number that the next event will get, and `"closed": true` says that none will follow. The same
facts travel in the headers, so that a message with a broken body is accounted for.

`reply_to` asks for an answer about these events, and `"query": [[0, 99], ...]`, in an envelope without events, about others of
the same epoch; see `penstock_schemas.answer`. A query is no heartbeat: its `seq` says nothing, and is 0.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from penstock_schemas.answer import SeqRange

__all__ = [
    "CONTENT_TYPE",
    "MAX_EVENTS_PER_MESSAGE",
    "MAX_MESSAGE_BYTES",
    "MAX_RECORD_BYTES",
    "QUEUE",
    "VERSION",
    "DroppedRange",
    "Envelope",
    "Op",
    "encode_event",
    "event_id",
    "event_id_prefix",
    "new_epoch",
]

VERSION = 1
CONTENT_TYPE = "application/vnd.penstock.v1+json"
#: The queue of all events, on both brokers.
QUEUE = "penstock.events"
MAX_MESSAGE_BYTES = 8 * 1024 * 1024
#: What one record may take, with room left for the envelope around it.
MAX_RECORD_BYTES = MAX_MESSAGE_BYTES - 64 * 1024
MAX_EVENTS_PER_MESSAGE = 10_000

Op = Literal["upsert", "delete"]


def new_epoch() -> UUID:
    """A UUIDv7 (RFC 9562) for one process start or fork: later epochs sort after earlier ones."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & (1 << 48) - 1) << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=value)


def event_id_prefix(epoch: UUID) -> str:
    """The first four groups of the ids of an epoch's events: the epoch's own, marked as version 8."""
    text = str(epoch)
    return f"{text[:14]}8{text[15:24]}"


def event_id(epoch: UUID, seq: int) -> str:
    """
    The id of an event: a UUIDv8 made of the epoch's first 74 free bits and 48 bits of `seq`.

    Ids of one epoch sort by `seq`, so that of two events with the same version the later one is the newer one.
    """
    return f"{event_id_prefix(epoch)}{seq & 0xFFFF_FFFF_FFFF:012x}"


def encode_event(type: str, op: Op, version: int, data: bytes) -> bytes:
    """One element of `events`; `data` is JSON already. `type` needs no escaping, see `Declaration`."""
    return b"".join((f'{{"type":"{type}","op":"{op}","version":{version},"data":'.encode(), data, b"}"))


@dataclass(frozen=True, slots=True)
class DroppedRange:
    """Events that a producer counted and gave up: numbers first to last, both included."""

    first: int
    last: int
    reason: str


@dataclass(frozen=True, slots=True)
class Envelope:
    """One message to be. `events` come from `encode_event`; see the module for the meaning of the rest."""

    producer: str
    epoch: UUID
    seq: int
    events: Sequence[bytes] = ()
    dropped: Sequence[DroppedRange] = ()
    reply_to: str | None = None
    is_closed: bool = False
    query: Sequence[SeqRange] = ()

    def body(self) -> bytes:
        """The message's bytes."""
        head: dict[str, Any] = {
            "v": VERSION,
            "producer": self.producer,
            "epoch": str(self.epoch),
            "seq": self.seq,
            "dropped": [[part.first, part.last, part.reason] for part in self.dropped],
            "reply_to": self.reply_to,
        }
        if self.is_closed:
            head["closed"] = True
        if self.query:
            head["query"] = self.query
        return b'%b,"events":[%b]}' % (json.dumps(head).encode()[:-1], b",".join(self.events))

    def headers(self) -> dict[str, Any]:
        """The message's headers."""
        return {
            "v": VERSION,
            "producer": self.producer,
            "epoch": str(self.epoch),
            "seq": self.seq,
            "count": len(self.events),
        }
