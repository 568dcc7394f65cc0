"""
What a translation service sends about one catalogue, in the order in which it happens there.

A session is sent twice: when it starts and when it is completed. A task is sent once, as a whole, when it is done; but one in
five of the translated ones is sent three times: created, taken up, translated. Those three and the session's two are partial
records, each with the fields that its moment knows.

Two sides of the service send them, in processes of their own: the FRONT accepts sessions and texts, the BACK translates. So
nothing says which of two events about one row reaches the broker first; the moment does, as the version's last digits.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from penstock_schemas import Record
from penstock_schemas.records.translation import TranslationSession, TranslationTask
from penstock_worker.demo.catalogues import Catalogue

__all__ = ["Event", "Side", "events_of"]

#: One translated task in so many is sent in three parts.
PARTS_EVERY = 5


class Side(enum.Enum):
    """The part of the service that sends an event."""

    FRONT = "front"
    BACK = "back"


@dataclass(frozen=True, slots=True)
class Event:
    """A record and the moment it tells of, counted from the start of the run."""

    side: Side
    moment: int
    record: Record

    def occurred_at(self, start: datetime) -> datetime:
        """The time to publish it with."""
        return start + timedelta(microseconds=self.moment)


def events_of(catalogue: Catalogue, side: Side) -> Iterator[Event]:
    """The events that one side sends about a catalogue."""
    session, tasks = catalogue.read()
    events = [*_session_events(session), *(event for task in tasks for event in _task_events(task))]
    return (event for event in events if event.side is side)


def _session_events(session: TranslationSession) -> Iterator[Event]:
    yield Event(
        Side.FRONT,
        0,
        TranslationSession(
            session_id=session.session_id,
            user_id=session.user_id,
            source_language=session.source_language,
            target_language=session.target_language,
            status="running",
            total_tasks=session.total_tasks,
            started_at=session.started_at,
            metadata=session.metadata,
        ),
    )
    yield Event(
        Side.BACK,
        4,
        TranslationSession(
            session_id=session.session_id,
            status=session.status,
            completed_tasks=session.completed_tasks,
            failed_tasks=session.failed_tasks,
            ended_at=session.ended_at,
        ),
    )


def _task_events(task: TranslationTask) -> Iterator[Event]:
    if task.status != "completed" or zlib.crc32(task.task_id.encode()) % PARTS_EVERY:
        yield Event(Side.FRONT, 1, task)
        return
    yield Event(
        Side.FRONT,
        1,
        TranslationTask(
            task_id=task.task_id,
            session_id=task.session_id,
            sequence=task.sequence,
            status="pending",
            source_text=task.source_text,
            retry_count=task.retry_count,
            created_at=task.created_at,
            metadata=task.metadata,
        ),
    )
    yield Event(
        Side.BACK,
        2,
        TranslationTask(
            task_id=task.task_id,
            session_id=task.session_id,
            status="running",
            model=task.model,
            started_at=task.started_at,
        ),
    )
    yield Event(
        Side.BACK,
        3,
        TranslationTask(
            task_id=task.task_id,
            session_id=task.session_id,
            status=task.status,
            translated_text=task.translated_text,
            tokens=task.tokens,
            error=None,
            completed_at=task.completed_at,
        ),
    )
