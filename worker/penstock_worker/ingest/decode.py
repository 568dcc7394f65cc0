r"""
From messages to events.

A message of which every event is as usual is read as columns (see `block`). Any other good message is validated in one call.
One in which anything is wrong is taken apart: its head is read alone and each event's bytes alone, so that a broken event harms
no neighbour. What cannot be read at all gets its outcome from the headers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from types import NoneType
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json, to_jsonable_python

from penstock_schemas.record import RecordType
from penstock_schemas.wire import MAX_EVENTS_PER_MESSAGE, MAX_MESSAGE_BYTES, VERSION, event_id_prefix
from penstock_worker.ingest.blame import squeezed
from penstock_worker.ingest.block import Block
from penstock_worker.ingest.block_reader import BlockReader
from penstock_worker.ingest.cloudevents import is_cloudevents, read_cloudevents
from penstock_worker.ingest.message import Envelope, Event, Message, RawMessage, envelope_of, unwrap
from penstock_worker.ingest.outcome import Outcome, Verdict
from penstock_worker.ingest.outline import split_events
from penstock_worker.ingest.unreadable import not_json, why_unreadable
from penstock_worker.ingest.validate import MAX_SEQ, Validators

__all__ = ["Decoded", "Refused", "decode", "dissolve", "refuse_whole"]


#: A NUL as JSON writes it; or a backslash before it is escaped, and it is text.
_NUL = b"\\u0000"


@dataclass(slots=True)
class Refused:
    """
    Events that could not be read: `count` of them from `first` in the envelope. `payload` is all there is of them.

    `event_id` is None where a whole message was refused.
    """

    envelope: Envelope
    first: int
    count: int
    payload: bytes
    verdict: Verdict
    hints: dict[str, Any] = field(default_factory=dict)
    event_id: str | None = None

    def hold(self) -> None:
        """Keep for later what would be dead."""
        self.verdict = replace(self.verdict, outcome=Outcome.HELD)


@dataclass(slots=True)
class Decoded:
    """What came out of a batch of messages: every event is either in `events`, in one of `blocks` or in `refused`."""

    envelopes: list[Envelope] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)


def decode(raws: Iterable[RawMessage], validators: Validators, blocks: BlockReader | None = None) -> Decoded:
    """Read messages, as blocks where `blocks` can; nothing that is in them can raise."""
    decoded = Decoded()
    messages: list[Message] = []
    for raw in raws:
        message = unwrap(raw)
        if message is None:
            message = Message(raw.body)
            refuse_whole(decoded, message, Verdict(Outcome.DEAD, "not_a_message", "the wrapping is not kombu's JSON"))
        elif len(message.body) > MAX_MESSAGE_BYTES:
            detail = f"{len(message.body)} bytes, the limit is {MAX_MESSAGE_BYTES}"
            refuse_whole(decoded, message, Verdict(Outcome.DEAD, "message_too_large", detail))
        else:
            messages.append(message)
    for message in messages if blocks is None else _decode_blocks(messages, blocks, decoded):
        _decode_closely(message, validators, decoded)
    return decoded


def _decode_blocks(messages: Iterable[Message], blocks: BlockReader, decoded: Decoded) -> list[Message]:
    """The way of the usual messages; the others, which want a closer look."""
    envelopes, found = blocks.read(message for message in messages if _NUL not in message.body)
    decoded.envelopes += envelopes
    decoded.blocks += found
    done = {id(envelope.message) for envelope in envelopes}
    return [message for message in messages if id(message) not in done]


def _decode_closely(message: Message, validators: Validators, decoded: Decoded) -> None:
    if is_cloudevents(message):
        _decode_cloudevents(message, validators, decoded)
    elif _NUL in message.body or not _decode_whole(message, validators, decoded):
        _decode_apart(message, validators, decoded)


def dissolve(decoded: Decoded, validators: Validators, envelopes: Iterable[Envelope]) -> None:
    """
    Take the messages of some envelopes out of the blocks, and read them anew as events.

    It is done for whole messages at a time, before anything of theirs has been written.
    """
    gone = {id(envelope): envelope for envelope in envelopes}
    decoded.blocks = [rest for block in decoded.blocks if len(rest := block.without(gone))]
    decoded.envelopes = [envelope for envelope in decoded.envelopes if id(envelope) not in gone]
    for envelope in gone.values():
        _decode_closely(envelope.message, validators, decoded)


def _decode_whole(message: Message, validators: Validators, decoded: Decoded) -> bool:
    """The way of every other good message; False if anything is wrong with it."""
    try:
        content = validators.envelope.validate_json(message.body)
    except ValidationError:
        return False
    contents = content["events"]
    if len(contents) > MAX_EVENTS_PER_MESSAGE or content["seq"] + len(contents) > MAX_SEQ + 1:
        return False
    envelope = envelope_of(message, content, len(contents))
    records, seq, prefix = validators.records, envelope.seq, event_id_prefix(content["epoch"])
    decoded.envelopes.append(envelope)
    decoded.events += [
        _event(records[event["type"]], event, f"{prefix}{seq + index:012x}", envelope, index)
        for index, event in enumerate(contents)
    ]
    return True


def _event(record: RecordType, content: dict[str, Any], event_id: str, envelope: Envelope, index: int) -> Event:
    data = content["data"]
    if record.declaration.append_only:
        for name in record.key:
            if name not in data:  # an append-only record without an id takes its event's
                data[name] = UUID(event_id)
    return Event(record, content["op"] == "delete", content["version"], event_id, data, envelope, index)


def _decode_apart(message: Message, validators: Validators, decoded: Decoded) -> None:
    parts = split_events(message.body)
    if parts is None:
        refuse_whole(decoded, message, why_unreadable(message.body))
        return
    head_bytes, pieces = parts
    try:
        head = from_json(head_bytes)
        if isinstance(head, dict) and head.get("v") != VERSION and isinstance(head.get("v"), int):
            detail = f"envelope version {head['v']}, this worker reads {VERSION}: update the workers"
            refuse_whole(decoded, message, Verdict(Outcome.HELD, "unknown_envelope_version", detail))
            return
        head = validators.head.validate_python(head)
    except ValidationError as exc:
        refuse_whole(decoded, message, Verdict(Outcome.DEAD, "invalid_envelope", _in_words(_first_error(exc))))
        return
    except ValueError as exc:
        refuse_whole(decoded, message, not_json(str(exc), message.body))
        return
    if len(pieces) > MAX_EVENTS_PER_MESSAGE:
        detail = f"{len(pieces)} events, the limit is {MAX_EVENTS_PER_MESSAGE}"
        refuse_whole(decoded, message, Verdict(Outcome.DEAD, "too_many_events", detail))
        return
    if head["seq"] + len(pieces) > MAX_SEQ + 1:
        detail = f"seq: {len(pieces)} events from {head['seq']} on, numbers end at {MAX_SEQ}"
        refuse_whole(decoded, message, Verdict(Outcome.DEAD, "invalid_envelope", detail))
        return
    envelope = envelope_of(message, head, len(pieces))
    decoded.envelopes.append(envelope)
    prefix = event_id_prefix(head["epoch"])
    for index, piece in enumerate(pieces):
        read_event(piece, index, f"{prefix}{envelope.seq + index:012x}", envelope, validators, decoded)


def read_event(piece: bytes, index: int, event_id: str, envelope: Envelope, validators: Validators, decoded: Decoded) -> None:
    """Read the bytes of one event into `decoded`, as an event or as refused."""
    try:
        content = validators.event.validate_json(piece)
    except ValidationError as exc:
        hints = _hints(piece)
        decoded.refused.append(Refused(envelope, index, 1, piece, _why_invalid(exc, piece, hints), hints, event_id))
        return
    if _NUL in piece and _has_nul(content["data"]):
        verdict = Verdict(Outcome.DEAD, "nul_character", "a text holds a NUL character, which PostgreSQL cannot store")
        decoded.refused.append(Refused(envelope, index, 1, piece, verdict, _hints(piece), event_id))
        return
    decoded.events.append(_event(validators.records[content["type"]], content, event_id, envelope, index))


def _decode_cloudevents(message: Message, validators: Validators, decoded: Decoded) -> None:
    envelope = Envelope(message)
    decoded.envelopes.append(envelope)
    try:
        readings = read_cloudevents(message)
    except ValueError as exc:
        refuse_whole(decoded, message, Verdict(Outcome.DEAD, "invalid_cloudevent", str(exc)))
        return
    envelope.count = len(readings)
    envelope.producer = readings[0].source if readings else None
    for index, reading in enumerate(readings):
        read_event(reading.event, index, reading.id, envelope, validators, decoded)


def refuse_whole(decoded: Decoded, message: Message, verdict: Verdict) -> None:
    """Refuse a whole message, accounting for what its headers say was in it."""
    envelope = _envelope_of_headers(message)
    decoded.envelopes.append(envelope)
    decoded.refused.append(Refused(envelope, 0, max(envelope.count, 1), message.body, verdict))


def _envelope_of_headers(message: Message) -> Envelope:
    headers = message.headers
    try:
        epoch, seq, count = UUID(str(headers["epoch"])), int(headers["seq"]), int(headers["count"])
    except (LookupError, ValueError, TypeError):
        return Envelope(message)
    if not (0 <= seq <= MAX_SEQ + 1 - count and 0 <= count <= MAX_EVENTS_PER_MESSAGE):
        return Envelope(message)
    return Envelope(message, str(headers.get("producer", ""))[:200], epoch, seq, count)


def _why_invalid(exc: ValidationError, piece: bytes, hints: dict[str, Any]) -> Verdict:
    error = _first_error(exc)
    is_tag = error["type"] == "union_tag_invalid" and error.get("ctx", {}).get("discriminator") == "'type'"
    if is_tag or (error["type"] == "literal_error" and error["loc"][-1:] == ("type",)):
        if "type" not in hints:
            return Verdict(Outcome.DEAD, "invalid", "type: Input should be a valid string")
        return Verdict(Outcome.HELD, "unknown_type", f"no record type {hints['type'][:100]!r} is installed in this worker")
    if error["type"] == "json_invalid":
        return not_json(error["msg"], piece)
    names = [str(part) for part in error["loc"]]
    column = names[names.index("data") + 1] if "data" in names[:-1] else None
    return Verdict(Outcome.DEAD, "invalid", _in_words(error), column=column)


def _first_error(exc: ValidationError) -> ErrorDetails:
    return exc.errors(include_url=False, include_input=False)[0]


def _in_words(error: ErrorDetails) -> str:
    return squeezed(f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}")


def _hints(piece: bytes) -> dict[str, Any]:
    """What a dead letter may say about an event that did not validate."""
    try:
        content = from_json(piece)
    except ValueError:
        return {}
    if not isinstance(content, dict):
        return {}
    hints: dict[str, Any] = {name: content[name] for name in ("type", "op") if isinstance(content.get(name), str)}
    version = content.get("version")
    if type(version) is int and 0 <= version < 2**63:  # `true` is an int to Python, and no bigint to PostgreSQL
        hints["version"] = version
    return hints


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, dict):
        return any(_has_nul(part) for pair in value.items() for part in pair)
    if isinstance(value, list):
        return any(map(_has_nul, value))
    if isinstance(value, _PLAIN):
        return False
    try:
        return _has_nul(to_jsonable_python(value, fallback=str))
    except ValueError:  # bytes that are no text: whoever writes the column says so
        return False


#: What holds no text, nor anything else; what is neither this nor JSON may be a model, a tuple, an enum.
_PLAIN = (int, float, Decimal, UUID, datetime, date, NoneType)
