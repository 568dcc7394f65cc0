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
from penstock_worker.ingest.message import Message, uuid8

__all__ = ["CLOUDEVENTS_TYPES", "Reading", "is_cloudevents", "read_cloudevents"]

_SINGLE = "application/cloudevents+json"
_BATCH = "application/cloudevents-batch+json"
CLOUDEVENTS_TYPES = frozenset({_SINGLE, _BATCH})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
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


def read_cloudevents(message: Message) -> list[Reading]:
    """
    Translate a message.

    Raises:
        ValueError: It is no CloudEvent with a time and an object as data; one bad event refuses its message.
    """
    is_batch = message.content_type.partition(";")[0].strip() == _BATCH
    try:
        events = _MANY.validate_json(message.body) if is_batch else [_CloudEvent.model_validate_json(message.body)]
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        raise ValueError(squeezed(f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}")) from exc
    return [_reading(event) for event in events]


def _reading(event: _CloudEvent) -> Reading:
    digest = hashlib.blake2b(f"{event.source}\n{event.id}".encode(), digest_size=16).digest()
    version = (event.time - _EPOCH) // timedelta(microseconds=1)
    content = {"type": event.type, "op": event.op, "version": version, "data": event.data}
    return Reading(event.source, str(uuid8(digest)), json.dumps(content).encode())
