"""What a multi-agent system persists: agents, their sessions, tasks and achievements, and who changed what."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from pydantic import AwareDatetime

from penstock_schemas.column import Max, Min
from penstock_schemas.declaration import Declaration, Index, Lifecycle, Parent
from penstock_schemas.record import Record

__all__ = [
    "OrchestrationAchievement",
    "OrchestrationAgent",
    "OrchestrationAuditLog",
    "OrchestrationSession",
    "OrchestrationTask",
]


class OrchestrationAgent(Record):
    """An agent and what it can do; it comes and goes, and never ends."""

    __record__ = Declaration(
        type="orchestration.agent",
        table="orchestration.agents",
        key="agent_id",
        indexes=[
            Index("role", "status"),
            Index("last_seen_at", where="status = 'active'"),
            Index("capabilities", method="gin"),
        ],
    )

    agent_id: str
    name: str | None = None
    role: str | None = None
    type: str | None = None
    status: Literal["active", "idle", "busy", "offline", "error"] | None = None
    capabilities: dict[str, Any] | list[Any] | None = None
    metadata: dict[str, Any] | None = None
    created_at: Min[AwareDatetime] | None = None
    last_seen_at: Max[AwareDatetime] | None = None


class OrchestrationSession(Record):
    """What agents do together for one person."""

    __record__ = Declaration(
        type="orchestration.session",
        table="orchestration.sessions",
        key="session_id",
        lifecycle=Lifecycle("status", terminal=("completed", "failed", "cancelled", "expired"), moves=("ended_at",)),
        subject="user_id",
        indexes=[Index("user_id"), Index("status", "started_at"), Index("expires_at", where="status = 'active'")],
    )

    session_id: str
    user_id: str | None = None
    status: Literal["active", "idle", "completed", "failed", "cancelled", "expired", "interrupted"] | None = None
    data: dict[str, Any] | None = None
    started_at: Min[AwareDatetime] | None = None
    expires_at: AwareDatetime | None = None
    ended_at: AwareDatetime | None = None


class OrchestrationTask(Record):
    """One piece of a session's work, given to an agent."""

    __record__ = Declaration(
        type="orchestration.task",
        table="orchestration.tasks",
        key="task_id",
        parent=Parent("session_id", "orchestration.session"),
        lifecycle=Lifecycle(
            "status",
            terminal=("completed", "failed", "cancelled"),
            moves=("result", "error", "completed_at"),
        ),
        indexes=[Index("agent_id", "status"), Index("status", "priority"), Index("payload", method="gin")],
    )

    task_id: str
    session_id: str
    agent_id: str | None = None
    type: str | None = None
    priority: int | None = None
    status: Literal["pending", "running", "completed", "failed", "cancelled", "interrupted"] | None = None
    payload: dict[str, Any] | None = None
    result: Any | None = None
    error: str | None = None
    created_at: Min[AwareDatetime] | None = None
    started_at: AwareDatetime | None = None
    completed_at: AwareDatetime | None = None


class OrchestrationAchievement(Record):
    """What an agent was awarded; it outlives the agent."""

    __record__ = Declaration(
        type="orchestration.achievement",
        table="orchestration.achievements",
        key="achievement_id",
        indexes=[Index("agent_id", "awarded_at")],
    )

    achievement_id: str
    agent_id: str | None = None
    name: str | None = None
    points: int | None = None
    awarded_at: AwareDatetime | None = None
    metadata: dict[str, Any] | None = None


class OrchestrationAuditLog(Record):
    """Who did what to which entity; `id` is the event's own id when left out. Kept for ever, also when its actor is erased."""

    __record__ = Declaration(
        type="orchestration.audit_log",
        table="orchestration.audit_logs",
        key=("id", "at"),
        append_only="at",
        subject="actor",
        content="audit log",
        is_audit_log=True,
        indexes=[Index("entity_type", "entity_id", "at"), Index("actor", "at")],
    )

    id: UUID | None = None
    at: AwareDatetime
    actor: str | None = None
    action: str | None = None
    entity_type: str | None = None
    entity_id: str | None = None
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    ip_address: str | None = None
