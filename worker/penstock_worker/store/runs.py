"""What the rows of `penstock.maintenance_runs` say, the last runs first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row

from penstock_worker.store.connection import Connection

__all__ = ["Run", "forget_runs", "list_runs"]

#: Rows that are deleted at a time.
_CHUNK = 10_000


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


def forget_runs(connection: Connection, before: datetime, *, is_dry_run: bool = False) -> int:
    """Delete the rows of runs that began before a time, in chunks; how many that were."""
    old = "penstock.maintenance_runs WHERE started_at < %s"
    if is_dry_run:
        (number,) = connection.execute(f"SELECT count(*) FROM {old}".encode(), [before]).fetchone() or (0,)
        return int(str(number))
    gone, chunk = 0, _CHUNK
    while chunk == _CHUNK:
        chunk = connection.execute(
            f"DELETE FROM penstock.maintenance_runs WHERE id IN (SELECT id FROM {old} ORDER BY id LIMIT %s)".encode(),
            [before, _CHUNK],
        ).rowcount
        gone += chunk
    return gone
