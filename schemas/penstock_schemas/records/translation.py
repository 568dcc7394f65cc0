"""What a translation service persists: sessions, and the texts translated in them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AwareDatetime

from penstock_schemas.column import Min
from penstock_schemas.declaration import Declaration, Index, Lifecycle, Parent
from penstock_schemas.record import Record

__all__ = ["TranslationSession", "TranslationTask"]

Status = Literal["pending", "running", "completed", "failed", "cancelled", "interrupted"]
_TERMINAL = ("completed", "failed", "cancelled")


class TranslationSession(Record):
    """One run of the translator over a document."""

    __record__ = Declaration(
        type="translation.session",
        table="translation.sessions",
        key="session_id",
        lifecycle=Lifecycle("status", terminal=_TERMINAL, moves=("ended_at",)),
        subject="user_id",
        indexes=[Index("user_id"), Index("status", "started_at")],
    )

    session_id: str
    user_id: str | None = None
    source_language: str | None = None
    target_language: str | None = None
    status: Status | None = None
    total_tasks: int | None = None
    completed_tasks: int | None = None
    failed_tasks: int | None = None
    started_at: Min[AwareDatetime] | None = None
    ended_at: AwareDatetime | None = None
    metadata: dict[str, Any] | None = None


class TranslationTask(Record):
    """One text of a session."""

    __record__ = Declaration(
        type="translation.task",
        table="translation.tasks",
        key="task_id",
        parent=Parent("session_id", "translation.session"),
        lifecycle=Lifecycle("status", terminal=_TERMINAL, moves=("error", "completed_at")),
    )

    task_id: str
    session_id: str
    sequence: int | None = None
    status: Status | None = None
    source_text: str | None = None
    translated_text: str | None = None
    model: str | None = None
    tokens: int | None = None
    error: str | None = None
    retry_count: int | None = None
    created_at: Min[AwareDatetime] | None = None
    started_at: AwareDatetime | None = None
    completed_at: AwareDatetime | None = None
    metadata: dict[str, Any] | None = None
