"""
Foreign producers: CloudEvents 1.0 in JSON, structured mode, single or batch.

`type` is the record type, `data` the record, `time` its version, and (source, id) the event's id, so that a repeated delivery
is the same event. The extension attribute `op` may be `delete`. Source: CloudEvents 1.0.2, JSON event format.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from penstock_worker.ingest.blame import squeezed
from penstock_worker.ingest.message import Message

__all__ = ["CLOUDEVENTS_TYPES", "Reading", "event_id", "is_batch", "is_cloudevents", "read_cloudevents", "version_of"]

_SINGLE = "application/cloudevents+json"
_BATCH = "application/cloudevents-batch+json"
CLOUDEVENTS_TYPES = frozenset({_SINGLE, _BATCH})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_Text = Annotated[str, Field(min_length=1, max_length=1000)]


class _CloudEvent(BaseModel):
    model_config = ConfigDict(extra="ignore")

    specversion: Literal["1.0"]
    id: _Text
    source: _Text
    type: _Text
    time: AwareDatetime
    op: Literal["upsert", "delete"] = "upsert"
    data: dict[str, JsonValue]


_MANY: TypeAdapter[list[_CloudEvent]] = TypeAdapter(list[_CloudEvent])


class Reading(NamedTuple):
    """One event as Penstock writes it on the wire, with its id."""

    source: str
    id: str
    event: bytes


def is_cloudevents(message: Message) -> bool:
    """Whether the message says of itself that it is one."""
    return message.content_type.partition(";")[0].strip() in CLOUDEVENTS_TYPES


def is_batch(message: Message) -> bool:
    """Whether it says that it is a list of them."""
    return message.content_type.partition(";")[0].strip() == _BATCH


def version_of(time: datetime) -> int:
    """The version of an event of that time."""
    return (time - _EPOCH) // _MICROSECOND


def event_id(source: str, name: str) -> str:
    """The id of the event that its source calls by a name: a UUIDv8."""
    digits = hashlib.blake2b(f"{source}\n{name}".encode(), digest_size=16).hexdigest()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-8{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def read_cloudevents(message: Message) -> list[Reading]:
    """
    Translate a message.

    Raises:
        ValueError: It is no CloudEvent with a time and an object as data; one bad event refuses its message.
    """
    try:
        events = _MANY.validate_json(message.body) if is_batch(message) else [_CloudEvent.model_validate_json(message.body)]
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        raise ValueError(squeezed(f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}")) from exc
    return [_reading(event) for event in events]


def _reading(event: _CloudEvent) -> Reading:
    content = {"type": event.type, "op": event.op, "version": version_of(event.time), "data": event.data}
    return Reading(event.source, event_id(event.source, event.id), json.dumps(content).encode())
