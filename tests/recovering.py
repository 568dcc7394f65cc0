"""What the tests of recovery share: sessions in a database, and scans at any time."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from penstock_schemas.registry import Registry, load_registry
from penstock_worker.maintenance.job import Job, run_job
from penstock_worker.maintenance.recovery import RecoveryScan
from penstock_worker.settings import Settings
from penstock_worker.store.recovery import Recovery, find_incomplete
from tests.replaying import VERSION, Office, event

__all__ = ["SESSION", "TASK", "Ward", "minutes"]

SESSION, TASK = "translation.session", "translation.task"


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


class Ward:
    """
    Sessions, and whoever looks after them. Records are stored now; scans are in the future.

    Sessions are stale after 30 minutes and given up after a day, as they are declared.
    """

    def __init__(self, database_url: str, broker_url: str, registry: Registry | None = None, **settings: Any) -> None:
        self.registry = registry or load_registry()
        self.office = Office(database_url, registry, broker_url=broker_url, **settings)
        self.connection, self.query = self.office.connection, self.office.query
        self.settings = self.office.settings
        self.start = datetime.now(UTC)

    def close(self) -> None:
        self.office.close()

    def store(self, type: str, version: int = VERSION, **data: Any) -> None:
        assert self.office.write(event(type, data, version)) == {"stored": 1}

    def session(self, name: str, status: str | None = "running", version: int = VERSION) -> None:
        self.store(SESSION, version, session_id=name, status=status)

    def task(self, name: str, session: str, status: str | None = "running", version: int = VERSION) -> None:
        self.store(TASK, version, task_id=name, session_id=session, status=status)

    def age(self, type: str, by: timedelta, **key: str) -> None:
        """Let a row have been stored longer ago."""
        (name, value), table = *key.items(), self.registry[type].declaration.table
        self.query(f"UPDATE {table} SET _stored_at = _stored_at - %s WHERE {name} = %s", by, value)

    def scan(
        self, later: timedelta, why_deaf: Callable[[Settings], str | None] = lambda _: None, **settings: Any
    ) -> dict[str, Any]:
        """Scan so much later than the start; until then others have listened without a break."""
        self.query(
            "INSERT INTO penstock.recovery_scans AS s (type, listens_since, looked_at) SELECT unnest(%s::text[]), %s, %s"
            " ON CONFLICT (type) DO UPDATE SET looked_at = excluded.looked_at",
            list(self.registry),
            self.start - timedelta(days=9),
            self.start + later,
        )
        return self.look(later, why_deaf, **settings)

    def look(
        self, later: timedelta, why_deaf: Callable[[Settings], str | None] = lambda _: None, **settings: Any
    ) -> dict[str, Any]:
        """Scan, whatever was before."""
        changed = self.settings.model_copy(update=settings)
        job = Job("recovery", "", RecoveryScan(why_deaf).run, every_s=60)
        done = run_job(job, changed, self.registry, started_by="test", now=lambda: self.start + later)
        return done.counts or {done.state: done.error}

    def open(self) -> list[Recovery]:
        return find_incomplete(self.connection)

    def found(self) -> list[str]:
        """The keys of what is open."""
        return [", ".join(recovery.key) for recovery in self.open()]

    def ended(self) -> dict[str, str]:
        """How what is over ended, by key."""
        return {
            json.dumps(key): outcome
            for key, outcome in self.query(
                "SELECT key, outcome FROM penstock.recoveries WHERE ended_at IS NOT NULL ORDER BY id"
            )
        }

    def states(self, type: str = SESSION) -> dict[str, str | None]:
        record = self.registry[type]
        return dict(self.query(f"SELECT {record.key[0]}, status FROM {record.declaration.table} ORDER BY 1"))  # type: ignore[arg-type]
