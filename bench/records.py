"""
What the benches store: sessions of a translation service and their tasks, and readings of agents; the same ones every time.

Keys are as the service would make them: a session is a random UUID, a task is its session and a number. Sessions come one
after the other, so that neighbours in the queue are neighbours in the index, as much for raw COPY as for the worker. Every
field is set (NULL where a finished task has nothing to say), and most words are not ASCII.

Each kind has a text over what was sent of a record, and its twin in SQL: that is how a round is compared with what was sent.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from bench.figures import digest_of
from penstock_schemas.records.guardian import GuardianMetric
from penstock_schemas.records.translation import TranslationSession, TranslationTask

__all__ = [
    "CONTENT_MD5_SQL",
    "METRIC_MD5_SQL",
    "TASKS_PER_SESSION",
    "TASK_MD5_SQL",
    "build_records",
    "checksum",
    "content_checksum",
    "correction",
    "metrics",
    "metrics_checksum",
]

TASKS_PER_SESSION = 200
_SEED = 20_261_121
_START = datetime(2026, 11, 1, tzinfo=UTC)
_WORDS = [
    *("water", "level", "gate", "pressure", "valve", "spring", "river", "house", "letter", "number", "window", "signal"),
    *("Wasserstand", "Brücke", "größer", "Zähler", "Fenster", "höher", "ausgewählt", "löschen", "Übersicht"),
    *("уровень", "мост", "больше", "окно", "выбрать", "удалить", "вечер", "зима"),
    *("水位", "閘門", "壓力", "彈簧", "河流", "房屋", "信件", "號碼"),
]


def _sentences(chance: random.Random) -> list[str]:
    return [" ".join(chance.choices(_WORDS, k=chance.randint(6, 16))) for _ in range(4_000)]


_SENTENCES = _sentences(random.Random(_SEED))


def build_records(events: int, seed: int = _SEED) -> tuple[list[TranslationSession], list[TranslationTask]]:
    """Sessions with 200 tasks each, `events` tasks in all; another seed gives other keys. Sentences come again and again."""
    chance = random.Random(seed)
    sessions = [_session(chance, number) for number in range(-(-events // TASKS_PER_SESSION))]
    return sessions, [_task(chance, sessions[number // TASKS_PER_SESSION], number) for number in range(events)]


def correction(number: int) -> dict[str, Any]:
    """What a later look at a task changes."""
    return {"translated_text": f"{_WORDS[number % len(_WORDS)]} №{number}", "tokens": number % 1000, "retry_count": 1}


def metrics(events: int) -> list[GuardianMetric]:
    """Readings, a tenth of a second apart. They begin yesterday: whenever this runs, there are partitions for that."""
    chance = random.Random(_SEED)
    began = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    return [
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


#: The MD5 of one stored task, equal to that of the task as it was sent.
TASK_MD5_SQL = (
    "md5(concat_ws('|', task_id, session_id, sequence, status, source_text, translated_text, model, tokens, retry_count,"
    " (extract(epoch FROM created_at) * 1000)::bigint, (extract(epoch FROM completed_at) * 1000)::bigint, metadata ->> 'page'))"
)


def checksum(tasks: Iterable[TranslationTask]) -> int:
    """Over tasks, whatever their order; see `TASK_MD5_SQL`."""
    return digest_of([_md5(_texts(task)) for task in tasks])


#: Of what is in a task, but for its keys: copies with other keys have it in common.
CONTENT_MD5_SQL = "md5(concat_ws('|', sequence, status, source_text, translated_text, model, tokens))"


def content_checksum(tasks: Iterable[TranslationTask]) -> int:
    """Over the content of tasks; see `CONTENT_MD5_SQL`."""
    parts = ([task.sequence, task.status, task.source_text, task.translated_text, task.model, task.tokens] for task in tasks)
    return digest_of([_md5(texts) for texts in parts])


#: The MD5 of one stored metric, equal to that of the metric as it was sent.
METRIC_MD5_SQL = (
    "md5(concat_ws('|', id, (extract(epoch FROM timestamp) * 1000)::bigint, agent_performance ->> 'planner_ms',"
    " agent_performance ->> 'critic_ms', agent_performance ->> 'agent', cache_stats ->> 'hits', cache_stats ->> 'misses',"
    " cache_stats ->> 'tier'))"
)


def metrics_checksum(readings: Iterable[GuardianMetric]) -> int:
    """Over metrics; see `METRIC_MD5_SQL`."""
    return digest_of([_md5(_metric_texts(metric)) for metric in readings])


def _md5(parts: Iterable[Any]) -> str:
    return hashlib.md5("|".join(map(str, parts)).encode()).hexdigest()


def _texts(task: TranslationTask) -> list[Any]:
    assert task.created_at
    assert task.completed_at
    assert task.metadata
    texts = [task.task_id, task.session_id, task.sequence, task.status, task.source_text, task.translated_text, task.model]
    moments = [round(moment.timestamp() * 1000) for moment in (task.created_at, task.completed_at)]
    return [*texts, task.tokens, task.retry_count, *moments, task.metadata["page"]]


def _metric_texts(metric: GuardianMetric) -> list[Any]:
    assert metric.agent_performance
    assert metric.cache_stats
    agents = [metric.agent_performance[name] for name in ("planner_ms", "critic_ms", "agent")]
    caches = [metric.cache_stats[name] for name in ("hits", "misses", "tier")]
    return [metric.id, round(metric.timestamp.timestamp() * 1000), *agents, *caches]


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
    source, target = (_SENTENCES[int(chance.random() * len(_SENTENCES))] for _ in range(2))
    return TranslationTask(
        task_id=f"{session.session_id}:{sequence:04d}",
        session_id=session.session_id,
        sequence=sequence,
        status="completed",
        source_text=source,
        translated_text=target,
        model="nmt-large-2026",
        tokens=source.count(" ") + target.count(" ") + 2,
        error=None,
        retry_count=0,
        created_at=created_at,
        started_at=created_at + timedelta(milliseconds=20),
        completed_at=created_at + timedelta(milliseconds=620),
        metadata={"page": sequence // 10, "style": "technical"},
    )
