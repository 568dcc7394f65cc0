"""What a personal-AI memory system persists; its metrics for now."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from pydantic import AwareDatetime

from penstock_schemas.declaration import Declaration
from penstock_schemas.record import Record

__all__ = ["GuardianMetric"]


class GuardianMetric(Record):
    """One reading of the agents' performance; `id` is the event's own id when left out."""

    __record__ = Declaration(
        type="guardian.metric",
        table="guardian.metrics",
        key=("id", "timestamp"),
        append_only="timestamp",
        retention=timedelta(days=365),
    )

    id: UUID | None = None
    timestamp: AwareDatetime
    agent_performance: dict[str, Any] | None = None
    cache_stats: dict[str, Any] | None = None
