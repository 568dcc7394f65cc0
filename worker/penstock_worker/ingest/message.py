"""What the pool child works on: messages as they came, envelopes and events as they were read."""

from __future__ import annotations

import base64
import hashlib
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple
from uuid import UUID

import msgspec
from pydantic_core import from_json

from penstock_schemas.answer import SeqRange, is_address
from penstock_schemas.record import RecordType
from penstock_worker.ingest.outcome import Outcome, Verdict

__all__ = ["Envelope", "Event", "Message", "RawMessage", "envelope_of", "unwrap", "uuid8"]

Stamp = tuple[int, str]


class RawMessage(NamedTuple):
    """
    A message as the main process got it, undecoded, and as it is pickled for the child.

    On Redis `body` is kombu's whole JSON wrapper and the rest is empty; on RabbitMQ `body` is the body.
    """

    body: bytes
    content_type: str | None = None
    headers: dict[str, Any] | None = None


@dataclass(slots=True)
class Message:
    """A message without its broker's wrapping."""

    body: bytes
    content_type: str = ""
    headers: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> UUID:
        """Names the message by what it says, so that every redelivery has the same name."""
        digest = hashlib.blake2b(self.body, digest_size=16)
        digest.update(repr([self.headers.get(name) for name in ("epoch", "seq")]).encode())
        return uuid8(digest.digest())


@dataclass(slots=True)
class Envelope:
    """
    What is known of a message's sender. `epoch` is None for foreign producers: they have no ledger.

    `reply_to` is an address at which a worker may answer. A `query` asks about numbers of the epoch, and is no heartbeat.
    """

    message: Message
    producer: str | None = None
    epoch: UUID | None = None
    seq: int = 0
    count: int = 0
    is_closed: bool = False
    dropped: list[tuple[int, int, str]] = field(default_factory=list)
    reply_to: str | None = None
    query: list[SeqRange] = field(default_factory=list)


def envelope_of(message: Message, head: dict[str, Any], count: int) -> Envelope:
    """The envelope of a message with a validated head."""
    reply_to = head.get("reply_to")
    return Envelope(
        message,
        head["producer"],
        head["epoch"],
        head["seq"],
        count,
        head.get("closed", False),
        head.get("dropped") or [],
        # A name from outside: at no other may a worker write.
        reply_to if is_address(reply_to) else None,
        [] if count else head.get("query") or [],
    )


@dataclass(slots=True)
class Event:
    """
    One event on its way to an outcome.

    `data` holds validated values by field name. `index` is its place in the envelope, by which a dead letter finds its bytes.
    """

    record: RecordType
    is_delete: bool
    version: int
    id: str
    data: dict[str, Any]
    envelope: Envelope
    index: int
    outcome: Outcome = Outcome.STORED
    verdict: Verdict | None = None
    #: The values of the primary key.
    key: tuple[Any, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.key = tuple([self.data[name] for name in self.record.key])

    @property
    def stamp(self) -> Stamp:
        """What events are ordered by."""
        return (self.version, self.id)

    def end(self, verdict: Verdict) -> None:
        """Give the event an outcome that keeps it out of its table."""
        self.outcome, self.verdict = verdict.outcome, verdict

    def hold(self) -> None:
        """Keep for later what would be dead."""
        if self.verdict is not None:
            self.end(replace(self.verdict, outcome=Outcome.HELD))


def uuid8(digest: bytes) -> UUID:
    """Sixteen bytes as a UUIDv8 (RFC 9562), which `uuid.UUID` of Python 3.11 cannot mark."""
    value = int.from_bytes(digest, "big")
    return UUID(int=value & ~(0xF << 76) & ~(0x3 << 62) | 0x8 << 76 | 0x2 << 62)


def unwrap(raw: RawMessage) -> Message | None:
    """Take kombu's Redis wrapping off; None if it is not what kombu writes."""
    if raw.headers is not None:
        return Message(raw.body, raw.content_type or "", raw.headers)
    try:
        wrapper = _WRAPPERS.decode(raw.body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _unwrap_odd(raw.body)
    return Message(wrapper.body, wrapper.content_type, wrapper.headers)


class _Properties(msgspec.Struct):
    body_encoding: Literal["base64"]


class _Wrapper(msgspec.Struct, rename={"content_type": "content-type"}):
    """What our producers and kombu's defaults write; the body is decoded while it is read, and what else there is skipped."""

    body: bytes
    properties: _Properties
    content_type: str = ""
    headers: dict[str, Any] = msgspec.field(default_factory=dict)


_WRAPPERS = msgspec.json.Decoder(_Wrapper)


def _unwrap_odd(body: bytes) -> Message | None:
    try:
        wrapper = from_json(body)
        content, properties = wrapper["body"], wrapper.get("properties", {})
        is_base64 = properties.get("body_encoding") == "base64"
        content_type, headers = wrapper.get("content-type"), wrapper.get("headers")
        return Message(
            _unwrap_body(content, is_base64=is_base64),
            content_type if isinstance(content_type, str) else "",
            headers if isinstance(headers, dict) else {},
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def _unwrap_body(body: str, *, is_base64: bool) -> bytes:
    """The message's bytes. What is not the base64 that it should be stays as it is: its headers account for it all the same."""
    if is_base64:
        with suppress(ValueError):
            return base64.b64decode(body, validate=True)
    return body.encode()
