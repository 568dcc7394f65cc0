"""
What the benches send: sessions of a translation service and their tasks, the same ones every time.

Keys are as the service would make them: a session is a random UUID, a task is its session and a number. Sessions come one
after the other, so that neighbours in the queue are neighbours in the index, as much for raw COPY as for the worker. Every
field is set (NULL where a finished task has nothing to say), and most words are not ASCII.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from bench.figures import digest_of
from penstock_schemas import Record
from penstock_schemas.records.guardian import GuardianMetric
from penstock_schemas.records.translation import TranslationSession, TranslationTask
from penstock_schemas.wire import CONTENT_TYPE, Envelope, encode_event, new_epoch

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
    content_type: str = CONTENT_TYPE


@dataclass(frozen=True, slots=True)
class Workload:
    """
    Messages of sessions and of tasks.

    Args:
        sessions: What the tasks refer to.
        tasks: What is measured.
        events: How many tasks.
        checksum: Over the tasks as they are to be stored, see `task_md5`; says whether what is stored is what was sent.
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


def build_workload(events: int) -> Workload:
    """New tasks: sessions with 200 tasks each, `events` tasks in all."""
    sessions, tasks = build_records(events)
    return Workload(_sessions(sessions), list(encode("bench-tasks", tasks)), events, checksum(tasks))


def build_updates(events: int) -> Workload:
    """The same tasks twice: as they ran, and, as full records of a newer version, with a better translation."""
    sessions, tasks = build_records(events)
    newer = [task.model_copy(update=_correction(number)) for number, task in enumerate(tasks)]
    before = list(encode("bench-before", tasks))
    return Workload(_sessions(sessions), list(encode("bench-updates", newer)), events, checksum(newer), before)


def build_corrections(events: int) -> Workload:
    """Tasks that are there, and partial records that set three fields of each."""
    sessions, tasks = build_records(events)
    changes = [_correction(number) for number in range(events)]
    partial = [
        TranslationTask(task_id=task.task_id, session_id=task.session_id, **change)
        for task, change in zip(tasks, changes, strict=True)
    ]
    after = [task.model_copy(update=change) for task, change in zip(tasks, changes, strict=True)]
    before = list(encode("bench-before", tasks))
    return Workload(_sessions(sessions), list(encode("bench-partial", partial)), events, checksum(after), before)


def build_records(events: int, seed: int = _SEED) -> tuple[list[TranslationSession], list[TranslationTask]]:
    """Sessions and tasks as objects; another seed gives other keys."""
    chance = random.Random(seed)
    sessions = [_session(chance, number) for number in range(-(-events // TASKS_PER_SESSION))]
    return sessions, [_task(chance, sessions[number // TASKS_PER_SESSION], number) for number in range(events)]


@dataclass(frozen=True, slots=True)
class SmallMessages:
    """The same tasks, each in a message of its own."""

    cloudevents: list[Message]
    envelopes: list[Message]


def build_small(events: int) -> SmallMessages:
    """New tasks, one a message."""
    _, tasks = build_records(events)
    return SmallMessages(
        [_cloudevent(task, number) for number, task in enumerate(tasks)],
        list(encode("bench-small", tasks, per_message=1)),
    )


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


def build_metrics(events: int) -> tuple[list[Message], int]:
    """
    Readings of agents, a tenth of a second apart, and their checksum.

    They begin yesterday: whenever this runs, there are partitions for that.
    """
    chance = random.Random(_SEED)
    began = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    metrics = [
        GuardianMetric(
            id=UUID(int=chance.getrandbits(128), version=4),
            timestamp=began + timedelta(milliseconds=100 * number),
            agent_performance={
                "planner_ms": chance.randint(1, 900),
                "critic_ms": chance.randint(1, 900),
                "agent": f"a{number % 40}",
            },
            cache_stats={"hits": chance.randint(0, 10_000), "misses": number, "tier": "warm"},
        )
        for number in range(events)
    ]
    return list(encode("bench-metrics", metrics)), digest_of(list(map(metric_md5, metrics)))


#: The MD5 of one stored metric, equal to that of the metric as it was sent.
METRIC_MD5_SQL = (
    "md5(concat_ws('|', id, (extract(epoch FROM timestamp) * 1000)::bigint, agent_performance ->> 'planner_ms',"
    " agent_performance ->> 'critic_ms', agent_performance ->> 'agent', cache_stats ->> 'hits', cache_stats ->> 'misses',"
    " cache_stats ->> 'tier'))"
)


def metric_md5(metric: GuardianMetric) -> str:
    """See `METRIC_MD5_SQL`."""
    assert metric.agent_performance
    assert metric.cache_stats
    moment = round(metric.timestamp.timestamp() * 1000)
    agents = [metric.agent_performance[name] for name in ("planner_ms", "critic_ms", "agent")]
    caches = [metric.cache_stats[name] for name in ("hits", "misses", "tier")]
    return hashlib.md5("|".join(map(str, [metric.id, moment, *agents, *caches])).encode()).hexdigest()


def _sessions(sessions: list[TranslationSession]) -> list[Message]:
    return list(encode("bench-sessions", sessions))


def _correction(number: int) -> dict[str, Any]:
    return {"translated_text": f"{_WORDS[number % len(_WORDS)]} №{number}", "tokens": number % 1000, "retry_count": 1}


def copies(messages: Sequence[Message], count: int) -> Iterator[Message]:
    """
    The messages many times over, each time as another producer process with other keys: its sessions' first eight digits.

    Made one by one, for a backlog need not fit into the bench's memory. The content of the rows repeats.
    """
    firsts = {key for message in messages for key in re.findall(rb'"session_id":"([0-9a-f]{8}-)', message.body)}
    assert firsts
    pattern = re.compile(b"|".join(re.escape(b'"' + first) for first in firsts))
    for number in range(count):
        epoch = str(new_epoch())
        for message in messages:
            was = str(message.headers["epoch"])
            body = message.body.replace(was.encode(), epoch.encode(), 1)
            yield Message(_renamed(pattern, body, number), message.headers | {"epoch": epoch})


def _renamed(pattern: re.Pattern[bytes], body: bytes, number: int) -> bytes:
    """Keys of another copy: the number is added to the first group of the UUID, which stays one to one."""

    def replaced(match: re.Match[bytes]) -> bytes:
        return b'"%08x-' % ((int(match[0][1:9], 16) + number * 0x9E3779B1) & 0xFFFF_FFFF)

    return pattern.sub(replaced, body)


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


#: The MD5 of one stored task, equal to that of the task as it was sent.
TASK_MD5_SQL = (
    "md5(concat_ws('|', task_id, session_id, sequence, status, source_text, translated_text, model, tokens, retry_count,"
    " (extract(epoch FROM created_at) * 1000)::bigint, (extract(epoch FROM completed_at) * 1000)::bigint, metadata ->> 'page'))"
)


def task_md5(task: TranslationTask) -> str:
    """See `TASK_MD5_SQL`."""
    assert task.created_at
    assert task.completed_at
    assert task.metadata
    texts = [task.task_id, task.session_id, task.sequence, task.status, task.source_text, task.translated_text, task.model]
    moments = [round(moment.timestamp() * 1000) for moment in (task.created_at, task.completed_at)]
    line = "|".join(str(part) for part in [*texts, task.tokens, task.retry_count, *moments, task.metadata["page"]])
    return hashlib.md5(line.encode()).hexdigest()


#: Of what is in a task, but for its keys: `copies` have it in common.
CONTENT_MD5_SQL = "md5(concat_ws('|', sequence, status, source_text, translated_text, model, tokens))"


def content_checksum(events: int) -> int:
    """Over the content of new tasks, see `CONTENT_MD5_SQL`."""
    _, tasks = build_records(events)
    texts = ([task.sequence, task.status, task.source_text, task.translated_text, task.model, task.tokens] for task in tasks)
    return digest_of([hashlib.md5("|".join(map(str, parts)).encode()).hexdigest() for parts in texts])


def checksum(tasks: Iterable[TranslationTask]) -> int:
    """Over tasks, whatever their order."""
    return digest_of(list(map(task_md5, tasks)))


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
