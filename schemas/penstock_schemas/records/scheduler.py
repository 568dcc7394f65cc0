"""What an AI pipeline server persists: pipelines, scheduled jobs and their executions."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

from pydantic import AwareDatetime

from penstock_schemas.column import Min
from penstock_schemas.declaration import Declaration, Index, Lifecycle, Parent
from penstock_schemas.record import Record

__all__ = ["SchedulerExecution", "SchedulerJob", "SchedulerPipeline"]


class SchedulerPipeline(Record):
    """A named recipe of steps."""

    __record__ = Declaration(type="scheduler.pipeline", table="scheduler.pipelines", key="name")

    name: str
    description: str | None = None
    config: dict[str, Any] | None = None
    created_at: AwareDatetime | None = None
    updated_at: AwareDatetime | None = None


class SchedulerJob(Record):
    """A pipeline on a timetable; read back when the service restarts."""

    __record__ = Declaration(
        type="scheduler.job",
        table="scheduler.jobs",
        key="id",
        indexes=[Index("enabled", "next_run")],
    )

    id: str
    name: str | None = None
    pipeline: str | None = None
    cron_expr: str | None = None
    enabled: bool | None = None
    next_run: AwareDatetime | None = None
    last_run: AwareDatetime | None = None
    last_result: str | None = None
    created_at: AwareDatetime | None = None
    updated_at: AwareDatetime | None = None


class SchedulerExecution(Record):
    """One run of a job; goes with its job."""

    __record__ = Declaration(
        type="scheduler.execution",
        table="scheduler.executions",
        key="id",
        parent=Parent("job_id", "scheduler.job"),
        lifecycle=Lifecycle(
            "status",
            terminal=("completed", "failed", "cancelled"),
            moves=("error", "end_time", "duration"),
        ),
        retention=timedelta(days=30),
        indexes=[Index("start_time")],
    )

    id: str
    job_id: str
    pipeline: str | None = None
    start_time: Min[AwareDatetime] | None = None
    end_time: AwareDatetime | None = None
    duration: float | None = None
    status: Literal["pending", "running", "completed", "failed", "cancelled", "interrupted"] | None = None
    error: str | None = None
    context: dict[str, Any] | None = None
    steps: list[Any] | None = None
    triggered_by: str | None = None
