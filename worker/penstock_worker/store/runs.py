"""What the rows of `penstock.maintenance_runs` say, the last runs first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row

from penstock_worker.store.connection import Connection

__all__ = ["Run", "list_runs"]


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a job; what its states mean is in `penstock_worker.maintenance.job`."""

    id: int
    job: str
    started_by: str
    is_dry_run: bool
    state: str
    started_at: datetime
    ended_at: datetime | None
    seconds: float | None
    counts: dict[str, Any] | None
    error: str | None


def list_runs(connection: Connection, job: str | None = None, limit: int = 20) -> list[Run]:
    """The last runs, of one job or of all."""
    query = (
        "SELECT id, job, started_by, is_dry_run, state, started_at, ended_at, seconds, counts, error"
        " FROM penstock.maintenance_runs WHERE (%(job)s::text IS NULL OR job = %(job)s) ORDER BY id DESC LIMIT %(limit)s"
    )
    with connection.cursor(row_factory=class_row(Run)) as cursor:
        return cursor.execute(query, {"job": job, "limit": limit}).fetchall()
