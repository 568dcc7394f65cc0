"""
What the benches send: sessions of a translation service and their tasks, the same ones every time.

Keys are as the service would make them: a session is a random UUID, a task is its session and a number. Sessions come one
after the other, so that neighbours in the queue are neighbours in the index, as much for raw COPY as for the worker. Every
field is set (NULL where a finished task has nothing to say), and most words are not ASCII.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from penstock_schemas import Record
from penstock_schemas.records.translation import TranslationSession, TranslationTask
from penstock_schemas.wire import Envelope, encode_event, new_epoch

TASKS_PER_SESSION = 200
EVENTS_PER_MESSAGE = 500
_SEED = 20_261_121
_START = datetime(2026, 11, 1, tzinfo=UTC)
_WORDS = [
    *("water", "level", "gate", "pressure", "valve", "spring", "river", "house", "letter", "number", "window", "signal"),
    *("Wasserstand", "Brücke", "größer", "Zähler", "Fenster", "höher", "ausgewählt", "löschen", "Übersicht"),
    *("уровень", "мост", "больше", "окно", "выбрать", "удалить", "вечер", "зима"),
    *("水位", "閘門", "壓力", "彈簧", "河流", "房屋", "信件", "號碼"),
]


@dataclass(frozen=True, slots=True)
class Message:
    """One message, encoded before the clock starts."""

    body: bytes
    headers: dict[str, object]


@dataclass(frozen=True, slots=True)
class Workload:
    """
    Messages of sessions and of tasks.

    Args:
        checksum: Over the tasks as they were sent, see `task_digest`; says whether what is stored is what was sent.
    """

    sessions: list[Message]
    tasks: list[Message]
    events: int
    checksum: str

    @property
    def bytes_per_event(self) -> float:
        """Of the messages of tasks."""
        return sum(len(message.body) for message in self.tasks) / self.events


def build_workload(events: int) -> Workload:
    """Sessions with 200 tasks each, `events` tasks in all."""
    chance = random.Random(_SEED)
    sessions = [_session(chance, number) for number in range(-(-events // TASKS_PER_SESSION))]
    tasks = [_task(chance, sessions[number // TASKS_PER_SESSION], number) for number in range(events)]
    return Workload(
        list(encode("bench-sessions", sessions)),
        list(encode("bench-tasks", tasks)),
        events,
        _checksum(tasks),
    )


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


#: The digest of one stored task, equal to that of the task as it was sent; the order of keys is that of COLLATE "C".
TASK_DIGEST_SQL = (
    "md5(concat_ws('|', task_id, session_id, sequence, status, source_text, translated_text, model, tokens, retry_count,"
    " (extract(epoch FROM created_at) * 1000)::bigint, (extract(epoch FROM completed_at) * 1000)::bigint, metadata ->> 'page'))"
)


def task_digest(task: TranslationTask) -> str:
    """See `TASK_DIGEST_SQL`."""
    assert task.created_at
    assert task.completed_at
    assert task.metadata
    texts = [task.task_id, task.session_id, task.sequence, task.status, task.source_text, task.translated_text, task.model]
    moments = [round(moment.timestamp() * 1000) for moment in (task.created_at, task.completed_at)]
    line = "|".join(str(part) for part in [*texts, task.tokens, task.retry_count, *moments, task.metadata["page"]])
    return hashlib.md5(line.encode()).hexdigest()


def _checksum(tasks: list[TranslationTask]) -> str:
    lines = "".join(task_digest(task) for task in sorted(tasks, key=lambda task: task.task_id.encode()))
    return hashlib.md5(lines.encode()).hexdigest()


def _session(chance: random.Random, number: int) -> TranslationSession:
    started_at = _START + timedelta(minutes=number)
    return TranslationSession(
        session_id=str(UUID(int=chance.getrandbits(128), version=4)),
        user_id=f"user-{number % 500}",
        source_language="en",
        target_language=chance.choice(["de", "ru", "zh"]),
        status="completed",
        total_tasks=TASKS_PER_SESSION,
        completed_tasks=TASKS_PER_SESSION,
        failed_tasks=0,
        started_at=started_at,
        ended_at=started_at + timedelta(minutes=1),
        metadata={"document": f"manual-{number}.odt"},
    )


def _task(chance: random.Random, session: TranslationSession, number: int) -> TranslationTask:
    assert session.started_at
    sequence = number % TASKS_PER_SESSION
    created_at = session.started_at + timedelta(milliseconds=sequence)
    source, target = (" ".join(chance.choices(_WORDS, k=chance.randint(6, 16))) for _ in range(2))
    return TranslationTask(
        task_id=f"{session.session_id}:{sequence:04d}",
        session_id=session.session_id,
        sequence=sequence,
        status="completed",
        source_text=source,
        translated_text=target,
        model="nmt-large-2026",
        tokens=len(source.split()) + len(target.split()),
        error=None,
        retry_count=0,
        created_at=created_at,
        started_at=created_at + timedelta(milliseconds=20),
        completed_at=created_at + timedelta(milliseconds=620),
        metadata={"page": sequence // 10, "style": "technical"},
    )
