"""What a personal-AI memory system persists: memories and moods of a person, what the two said, and how it all performs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

from pydantic import AwareDatetime

from penstock_schemas.column import Min
from penstock_schemas.declaration import Declaration, Index, Lifecycle
from penstock_schemas.record import Record

__all__ = [
    "GuardianAccessLog",
    "GuardianDreamCycle",
    "GuardianEmotionalState",
    "GuardianInteraction",
    "GuardianMemory",
    "GuardianMetric",
    "GuardianProfileSnapshot",
    "GuardianSession",
]

_YEAR = timedelta(days=365)
#: Rows are read by person.
_BY_PERSON = (Index("user_id", "timestamp"),)


class GuardianMemory(Record):
    """Something remembered about a person."""

    __record__ = Declaration(
        type="guardian.memory",
        table="guardian.memories",
        key="memory_id",
        retention=2 * _YEAR,
        subject="user_id",
        category="sensitive",
        content="memory",
        indexes=[*_BY_PERSON, Index("patterns", method="gin")],
    )

    memory_id: str
    user_id: str | None = None
    type: str | None = None
    strength: float | None = None
    patterns: dict[str, Any] | list[Any] | None = None
    metadata: dict[str, Any] | None = None
    timestamp: AwareDatetime | None = None


class GuardianDreamCycle(Record):
    """One night's work on a person's memories."""

    __record__ = Declaration(
        type="guardian.dream_cycle",
        table="guardian.dream_cycles",
        key="cycle_id",
        retention=2 * _YEAR,
        subject="user_id",
        category="sensitive",
        content="memory",
        indexes=_BY_PERSON,
    )

    cycle_id: str
    user_id: str | None = None
    schedule: dict[str, Any] | None = None
    memories: list[Any] | None = None
    simulations: list[Any] | None = None
    insights: list[Any] | None = None
    timestamp: AwareDatetime | None = None


class GuardianProfileSnapshot(Record):
    """A person's profile as it was at a time."""

    __record__ = Declaration(
        type="guardian.profile_snapshot",
        table="guardian.profile_snapshots",
        key="snapshot_id",
        retention=3 * _YEAR,
        subject="user_id",
        category="sensitive",
        content="profile data",
        indexes=_BY_PERSON,
    )

    snapshot_id: str
    user_id: str | None = None
    dimensions: dict[str, Any] | None = None
    evolution_score: float | None = None
    insights: list[Any] | None = None
    timestamp: AwareDatetime | None = None


class GuardianEmotionalState(Record):
    """What a person seemed to feel."""

    __record__ = Declaration(
        type="guardian.emotional_state",
        table="guardian.emotional_states",
        key="state_id",
        retention=timedelta(days=180),
        subject="user_id",
        category="sensitive",
        content="emotional state",
        indexes=_BY_PERSON,
    )

    state_id: str
    user_id: str | None = None
    emotion: str | None = None
    intensity: float | None = None
    stability: float | None = None
    timestamp: AwareDatetime | None = None


class GuardianSession(Record):
    """A time that a person spent with the system."""

    __record__ = Declaration(
        type="guardian.session",
        table="guardian.sessions",
        key="session_id",
        lifecycle=Lifecycle("status", terminal=("ended",), moves=("end_time",)),
        retention=timedelta(days=90),
        subject="user_id",
        content="interaction history",
        indexes=[Index("user_id", "start_time")],
    )

    session_id: str
    user_id: str | None = None
    status: Literal["active", "ended", "interrupted"] | None = None
    start_time: Min[AwareDatetime] | None = None
    end_time: AwareDatetime | None = None
    metadata: dict[str, Any] | None = None


class GuardianInteraction(Record):
    """One exchange with a person; it may belong to a session."""

    __record__ = Declaration(
        type="guardian.interaction",
        table="guardian.interactions",
        key="interaction_id",
        retention=timedelta(days=90),
        subject="user_id",
        content="interaction history",
        indexes=[*_BY_PERSON, Index("session_id")],
    )

    interaction_id: str
    user_id: str | None = None
    session_id: str | None = None
    type: str | None = None
    response_time: float | None = None
    agent_mode: str | None = None
    metadata: dict[str, Any] | None = None
    timestamp: AwareDatetime | None = None


class GuardianAccessLog(Record):
    """Who looked at a person's data; `id` is the event's own id when left out. Kept also when the person is erased."""

    __record__ = Declaration(
        type="guardian.access_log",
        table="guardian.access_logs",
        key=("id", "timestamp"),
        append_only="timestamp",
        retention=7 * _YEAR,
        subject="user_id",
        content="audit log",
        is_audit_log=True,
        indexes=[Index("user_id", "timestamp")],
    )

    id: UUID | None = None
    timestamp: AwareDatetime
    user_id: str | None = None
    access_type: str | None = None
    ip_address: str | None = None
    success: bool | None = None
    reason: str | None = None


class GuardianMetric(Record):
    """One reading of the agents' performance; `id` is the event's own id when left out."""

    __record__ = Declaration(
        type="guardian.metric",
        table="guardian.metrics",
        key=("id", "timestamp"),
        append_only="timestamp",
        retention=_YEAR,
        content="system",
    )

    id: UUID | None = None
    timestamp: AwareDatetime
    agent_performance: dict[str, Any] | None = None
    cache_stats: dict[str, Any] | None = None
