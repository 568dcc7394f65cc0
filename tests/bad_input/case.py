"""What a case is: a message as it lies in the queue, and what must become of the events in it."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from penstock_schemas.wire import CONTENT_TYPE
from penstock_worker.ingest.message import RawMessage

__all__ = [
    "VERSION",
    "Case",
    "all_bad",
    "all_good",
    "envelope",
    "event",
    "job",
    "new_epoch",
    "numbered_epoch",
    "one_bad",
    "pipeline",
    "wrap",
]

#: Before the present: microseconds since 1970.
VERSION = 1_700_000_000_000_000

_epochs = itertools.count(1)


def new_epoch() -> str:
    """A producer's epoch for one case, so that the ledger tells cases apart; the same in every run."""
    return numbered_epoch(0x0199BAD0, next(_epochs))


def numbered_epoch(start: int, number: int) -> str:
    """A UUIDv7; the number is in its first half, of which the ids of its events are made."""
    return str(UUID(int=start << 96 | number >> 12 << 80 | 0x7 << 76 | (number & 0xFFF) << 64 | 0x8 << 60))


@dataclass(frozen=True, slots=True)
class Case:
    """
    One message.

    Args:
        name: What is wrong.
        body: Its bytes.
        ends: Events by outcome.
        letters: Dead letters by state and reason.
        headers: As they travel; of any type that the broker takes.
        content_type: As it travels.
        content_encoding: As it travels.
        wrapper: On Redis the whole message, where its wrapping is what is wrong; there is no such message on RabbitMQ.
        is_numbered: Whether the ledger tells of the events; of those without an epoch only letters and rows do.
    """

    name: str
    body: bytes
    ends: Mapping[str, int]
    letters: Mapping[tuple[str, str], int] = field(default_factory=dict)
    headers: Any = field(default_factory=dict)
    content_type: Any = CONTENT_TYPE
    content_encoding: Any = "binary"
    wrapper: bytes | None = None
    is_numbered: bool = True

    def on_redis(self) -> RawMessage:
        """As a worker pops it."""
        if self.wrapper is not None:
            return RawMessage(self.wrapper)
        return RawMessage(wrap(self.body, self.headers, self.content_type, self.content_encoding))

    def on_rabbitmq(self) -> RawMessage:
        """As a worker consumes it."""
        return RawMessage(self.body, self.content_type, self.headers)


def wrap(body: bytes, headers: Any = None, content_type: Any = CONTENT_TYPE, content_encoding: Any = "binary") -> bytes:
    """A body as kombu writes it to Redis."""
    properties = {"body_encoding": "base64", "delivery_mode": 2, "delivery_tag": "t"}
    message = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": content_encoding,
        "content-type": content_type,
        "headers": {} if headers is None else headers,
        "properties": properties,
    }
    return json.dumps(message, default=str).encode()


def event(data: bytes, type: str = "scheduler.job", op: str = "upsert", version: int | bytes = VERSION) -> bytes:
    """An event whose `data`, and `version` if it is bytes, are JSON already, good or bad."""
    number = version if isinstance(version, bytes) else b"%d" % version
    return b'{"type":"%b","op":"%b","version":%b,"data":%b}' % (type.encode(), op.encode(), number, data)


def job(key: str, **values: Any) -> bytes:
    """A good event."""
    return event(json.dumps({"id": key, **values}).encode())


def pipeline(key: str, config: bytes) -> bytes:
    """An event with JSON in it, good or bad."""
    return event(b'{"name":%b,"config":{"v":%b}}' % (json.dumps(key).encode(), config), "scheduler.pipeline")


def envelope(*events: bytes, epoch: str | bytes | None, **overrides: bytes | None) -> bytes:
    """An envelope; fields that are given are JSON already, good or bad, and those that are None are left out."""
    head: dict[str, bytes | None] = {
        "v": b"1",
        "producer": b'"bad"',
        "epoch": json.dumps(epoch).encode() if isinstance(epoch, str) else epoch,
        "seq": b"0",
        "events": b"[%b]" % b",".join(events),
        **overrides,
    }
    return b"{%b}" % b",".join(b'"%b":%b' % (name.encode(), value) for name, value in head.items() if value is not None)


def headers(epoch: str, count: int) -> dict[str, Any]:
    """The headers of such an envelope."""
    return {"v": 1, "producer": "bad", "epoch": epoch, "seq": 0, "count": count}


def all_good(name: str, *events: bytes, **overrides: bytes | None) -> Case:
    """A case of which every event is stored."""
    epoch = new_epoch()
    return Case(name, envelope(*events, epoch=epoch, **overrides), {"stored": len(events)}, {}, headers(epoch, len(events)))


def one_bad(name: str, bad: bytes, state: str, reason: str) -> Case:
    """A bad event between two good ones, which are stored."""
    epoch = new_epoch()
    body = envelope(job(f"{name}-before"), bad, job(f"{name}-after"), epoch=epoch)
    return Case(name, body, {"stored": 2, state: 1}, {(state, reason): 1}, headers(epoch, 3))


def all_bad(name: str, body: bytes, reason: str, *, state: str = "dead", count: int = 2, **how: Any) -> Case:
    """A message of which nothing can be read; the headers say that `count` events were in it."""
    return Case(name, body, {state: count}, {(state, reason): 1}, headers(new_epoch(), count), **how)
