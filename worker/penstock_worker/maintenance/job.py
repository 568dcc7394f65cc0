"""
A job: one kind of maintenance, and the one way in which it runs, whoever starts it.

A run takes the job's advisory lock, leaves a row in `penstock.maintenance_runs`, and does a bounded piece of work that may be
done twice. A second run at the same time does nothing.

| state of a row | meaning                                                                                     |
|----------------|---------------------------------------------------------------------------------------------|
| running        | it is under way                                                                             |
| done           | it did what it had to do, `counts` say how much                                             |
| away           | the database went away meanwhile; the next run does the rest                                |
| failed         | it raised, or was interrupted; `error` says by what                                         |
| died           | it holds its lock no more and never said how it ended: killed, or cut off from the database |
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import psycopg
from psycopg.types.json import Jsonb

from penstock_schemas.registry import Registry
from penstock_worker.errors import ConfigurationError, DatabaseAway
from penstock_worker.ingest.blame import squeezed
from penstock_worker.masking import Mask
from penstock_worker.settings import Settings
from penstock_worker.store.connection import Connection, connect_with
from penstock_worker.store.sqlstate import Answer, answer_to

__all__ = ["Done", "Job", "Progress", "Work", "run_job"]

#: The first half of every job's advisory lock, the second being the hash of its name; any number that nobody else uses.
_LOCK = 0x70656E6A

#: Told how much is done and how much there is, None where that is not known.
Progress = Callable[[int, int | None], None]

Counts = dict[str, Any]


def _say_nothing(done: int, total: int | None) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class Work:
    """
    What a run has to work with.

    Args:
        connection: In autocommit, alone this run's; it holds the job's lock.
        now: What time it is for this run, aware; tests say another one.
        is_dry_run: Tell what would go, and delete nothing.
        arguments: From the schedule or the command line.
        progress: Told after each piece of work, for a person who waits.
    """

    settings: Settings
    registry: Registry
    connection: Connection
    now: datetime
    is_dry_run: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    progress: Progress = _say_nothing


@dataclass(frozen=True)
class Job:
    """
    One kind of maintenance.

    Args:
        name: One word; its task is `penstock.maintain.<name>`.
        summary: What it does, in a line for a list.
        every_s: Seconds between two runs where nobody has said otherwise; None where a `cron` says it.
        cron: Five fields, in UTC.
        run: Does a bounded piece of work, idempotent and resumable; counts for the row of the run.
        deletes: It deletes, and in a dry run tells what would go instead.
        takes: The names of its arguments; None lets any pass.
    """

    name: str
    summary: str
    run: Callable[[Work], Counts]
    every_s: float | None = None
    cron: str | None = None
    deletes: bool = False
    takes: tuple[str, ...] | None = None

    @property
    def task(self) -> str:
        """The name of its Celery task."""
        return f"penstock.maintain.{self.name}"

    def check(self, arguments: object) -> None:
        """
        See whether it takes these arguments: a key file whose name is misspelt would leave backups open for all to read.

        Raises:
            ConfigurationError: It does not.
        """
        if not isinstance(arguments, Mapping):
            raise ConfigurationError(f"{self.name}: the arguments of a job are a JSON object")
        if self.takes is not None and (unknown := sorted(arguments.keys() - set(self.takes))):
            known = f"it takes {', '.join(self.takes)}" if self.takes else "it takes none"
            raise ConfigurationError(f"{self.name} has no argument {', '.join(unknown)}: {known}")


@dataclass(frozen=True, slots=True)
class Done:
    """How a run ended; `counts` are the job's own, `error` one line."""

    job: str
    state: Literal["done", "failed", "skipped", "away"]
    seconds: float
    counts: Counts
    error: str | None = None


def run_job(
    job: Job,
    settings: Settings,
    registry: Registry,
    *,
    started_by: str,
    is_dry_run: bool = False,
    arguments: Mapping[str, Any] | None = None,
    now: Callable[[], datetime] | None = None,
    progress: Progress = _say_nothing,
) -> Done:
    """
    Run a job once. What time it is says the database's clock, unless `now` does.

    Returns:
        How it ended: `skipped` where another run of it is under way, `away` where the database is, which is no failure: the
        next run does it.

    Raises:
        ConfigurationError: A dry run of a job that knows none; nothing was done.
        Exception: Whatever the job raised; that it failed is recorded.
    """
    if is_dry_run and not job.deletes:
        raise ConfigurationError(f"{job.name} deletes nothing and has no dry run; run it without --dry-run")
    begin = time.monotonic()
    try:
        with connect_with(settings)() as connection, _alone(connection, job) as is_alone:
            if not is_alone:
                return Done(job.name, "skipped", 0, {}, "another run is under way")
            row = _begin(connection, job, started_by, is_dry_run=is_dry_run)
            work = Work(
                settings, registry, connection, now() if now else _clock(connection), is_dry_run, arguments or {}, progress
            )
            try:
                job.check(work.arguments)
                counts = job.run(work)
            except BaseException as exc:
                # Where this run's connection is lost this fails too, and the next run says that this one died.
                with suppress(psycopg.Error):
                    state = "away" if _is_away(exc) else "failed"
                    _end(connection, row, state, _seconds_since(begin), {}, _one_line(exc))
                raise
            seconds = _seconds_since(begin)
            _end(connection, row, "done", seconds, counts, None)
    except (psycopg.Error, DatabaseAway) as exc:
        if not _is_away(exc):
            raise
        return Done(job.name, "away", _seconds_since(begin), {}, _one_line(exc))
    return Done(job.name, "done", seconds, counts)


#: A run ends its row before it lets go of its lock, so that who has the row and not the lock has died. Rows of other jobs
#: are among them: one that is never run again would be under way for ever.
_END_DEAD = """
    UPDATE penstock.maintenance_runs r SET state = 'died', ended_at = now()
    WHERE state = 'running' AND (job = %(job)s OR NOT EXISTS (
        SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
        WHERE locktype = 'advisory' AND objsubid = 2 AND granted
          AND classid::bigint = %(lock)s AND objid::bigint = hashtext(r.job)::bigint & 4294967295))
"""


@contextmanager
def _alone(connection: Connection, job: Job) -> Iterator[bool]:
    """Whether no other run of the job is under way; none begins until this ends."""
    parameters = [_LOCK, job.name]
    if connection.execute("SELECT pg_try_advisory_lock(%s, hashtext(%s))", parameters).fetchone() != (True,):
        yield False
        return
    try:
        yield True
    finally:
        # The server would do it at the connection's end, a moment after it: the next run may be sooner.
        with suppress(psycopg.Error):
            connection.execute("SELECT pg_advisory_unlock(%s, hashtext(%s))", parameters)


def _clock(connection: Connection) -> datetime:
    """The database's: what a run compares the time with was stamped there, and this machine's clock may be hours wrong."""
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None  # a SELECT without FROM has a row
    return row[0]  # type: ignore[return-value]  # a timestamptz


def _begin(connection: Connection, job: Job, started_by: str, *, is_dry_run: bool) -> int:
    connection.execute(_END_DEAD, {"lock": _LOCK, "job": job.name})
    row = connection.execute(
        "INSERT INTO penstock.maintenance_runs (job, started_by, is_dry_run, state)"
        " VALUES (%s, %s, %s, 'running') RETURNING id",
        [job.name, started_by, is_dry_run],
    ).fetchone()
    assert row is not None  # RETURNING gives a row
    return int(str(row[0]))


def _end(connection: Connection, row: int, state: str, seconds: float, counts: Counts, error: str | None) -> None:
    connection.execute(
        "UPDATE penstock.maintenance_runs SET state = %s, ended_at = now(), seconds = %s, counts = %s, error = %s"
        " WHERE id = %s",
        [state, seconds, Jsonb(counts), error, row],
    )


def _seconds_since(begin: float) -> float:
    return round(time.monotonic() - begin, 3)


def _is_away(exc: BaseException) -> bool:
    """Whether it is the database's state, and no fault of the run."""
    return isinstance(exc, DatabaseAway) or (isinstance(exc, psycopg.Error) and answer_to(exc) is Answer.AWAY)


def _one_line(exc: BaseException) -> str:
    """Without what PostgreSQL quotes of rows: who may read runs need not be one who may read these."""
    said = Mask().text(str(exc)) if isinstance(exc, psycopg.Error) else str(exc)
    return squeezed(f"{type(exc).__name__}: {said}")
