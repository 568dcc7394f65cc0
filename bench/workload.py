"""The records of `records` as messages, encoded before any clock starts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from bench.records import build_records, checksum, correction, metrics, metrics_checksum
from penstock_schemas import Record
from penstock_schemas.records.translation import TranslationSession, TranslationTask
from penstock_schemas.wire import CONTENT_TYPE, Envelope, encode_event, new_epoch

__all__ = [
    "EVENTS_PER_MESSAGE",
    "Message",
    "SmallMessages",
    "Workload",
    "build_corrections",
    "build_metrics",
    "build_small",
    "build_updates",
    "build_workload",
    "copies",
    "encode",
]

EVENTS_PER_MESSAGE = 500
#: The first eight digits of the keys in a message.
_KEYS = re.compile(rb'(?<=_id":")([0-9a-f]{8})(?=-)')
#: Odd, and far from a round number: keys of one copy do not lie beside those of the next.
_STRIDE = 0x9E37_79B1


@dataclass(frozen=True, slots=True)
class Message:
    """One message."""

    body: bytes
    headers: dict[str, object]
    content_type: str = CONTENT_TYPE


@dataclass(frozen=True, slots=True)
class Workload:
    """
    Messages of sessions and of tasks.

    Args:
        sessions: What the tasks refer to.
        tasks: What is measured.
        events: How many tasks.
        checksum: Over the tasks as they are to be stored; says whether what is stored is what was sent.
        before: Messages of the tasks that are there before.
    """

    sessions: list[Message]
    tasks: list[Message]
    events: int
    checksum: int
    before: list[Message] = field(default_factory=list)

    @property
    def bytes_per_event(self) -> float:
        """Of the messages of tasks."""
        return sum(len(message.body) for message in self.tasks) / self.events


@dataclass(frozen=True, slots=True)
class SmallMessages:
    """The same tasks twice, each in a message of its own."""

    cloudevents: list[Message]
    envelopes: list[Message]


def build_workload(events: int) -> Workload:
    """New tasks."""
    sessions, tasks = build_records(events)
    return Workload(_sessions(sessions), list(encode("bench-tasks", tasks)), events, checksum(tasks))


def build_updates(events: int) -> Workload:
    """Tasks that are there, and the same as full records of a newer version, with another translation."""
    sessions, tasks = build_records(events)
    newer = [task.model_copy(update=correction(number)) for number, task in enumerate(tasks)]
    before = list(encode("bench-before", tasks))
    return Workload(_sessions(sessions), list(encode("bench-updates", newer)), events, checksum(newer), before)


def build_corrections(events: int) -> Workload:
    """Tasks that are there, and partial records that set three fields of each."""
    sessions, tasks = build_records(events)
    partial = [
        TranslationTask(task_id=task.task_id, session_id=task.session_id, **correction(number))
        for number, task in enumerate(tasks)
    ]
    after = [task.model_copy(update=correction(number)) for number, task in enumerate(tasks)]
    before = list(encode("bench-before", tasks))
    return Workload(_sessions(sessions), list(encode("bench-partial", partial)), events, checksum(after), before)


def build_small(events: int) -> SmallMessages:
    """New tasks, one a message."""
    _, tasks = build_records(events)
    return SmallMessages(
        [_cloudevent(task, number) for number, task in enumerate(tasks)],
        list(encode("bench-small", tasks, per_message=1)),
    )


def build_metrics(events: int) -> tuple[list[Message], int]:
    """Append-only records, and their checksum."""
    readings = metrics(events)
    return list(encode("bench-metrics", readings)), metrics_checksum(readings)


def encode(producer: str, records: Sequence[Record], per_message: int = EVENTS_PER_MESSAGE) -> Iterator[Message]:
    """Envelopes of records, with versions that rise by a microsecond."""
    epoch = new_epoch()
    first_version = int(datetime.now(UTC).timestamp() * 1_000_000) - len(records)
    for seq in range(0, len(records), per_message):
        part = records[seq : seq + per_message]
        envelope = Envelope(
            producer,
            epoch,
            seq,
            [
                encode_event(record.__record__.type, "upsert", first_version + seq + number, record.to_json())
                for number, record in enumerate(part)
            ],
        )
        yield Message(envelope.body(), envelope.headers())


def copies(messages: Sequence[Message], count: int) -> Iterator[Message]:
    """
    The messages many times over, each time as another producer process with other keys.

    Made one by one, for a backlog need not fit into the bench's memory. The content of the rows repeats.
    """
    templates = [(message, _KEYS.split(message.body)) for message in messages]
    for number in range(count):
        epoch = str(new_epoch())
        for message, parts in templates:
            # Every second part is the first group of a UUID. The number is added to it, which stays one to one.
            firsts = [b"%08x" % ((int(first, 16) + number * _STRIDE) & 0xFFFF_FFFF) for first in parts[1::2]]
            others = parts.copy()
            others[1::2] = firsts
            was = str(message.headers["epoch"]).encode()
            yield Message(b"".join(others).replace(was, epoch.encode(), 1), message.headers | {"epoch": epoch})


def _sessions(sessions: list[TranslationSession]) -> list[Message]:
    return list(encode("bench-sessions", sessions))


def _cloudevent(task: TranslationTask, number: int) -> Message:
    assert task.completed_at
    head = {
        "specversion": "1.0",
        "id": str(number),
        "source": "bench",
        "type": task.__record__.type,
        "time": task.completed_at.isoformat(),
    }
    body = b'%b,"data":%b}' % (json.dumps(head).encode()[:-1], task.to_json())
    return Message(body, {}, "application/cloudevents+json")
