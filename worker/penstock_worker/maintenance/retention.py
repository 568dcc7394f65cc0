"""
The job that deletes what is kept no longer: months as a whole, other rows and dead letters in small transactions.

A pass goes through the tables, children before their parents, in as many runs as it takes: each ends when its time is over, and
the next one goes on at the page where it stopped, which it finds in the counts of the last run. Between two passes the tables
rest. Safe to run twice: what is gone is not found again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

from penstock_schemas.record import RecordType
from penstock_worker.letters.old import LettersDue, discard_old, letters_due
from penstock_worker.maintenance.job import Work
from penstock_worker.settings import Settings
from penstock_worker.store.connection import Connection
from penstock_worker.store.months import kept_months
from penstock_worker.store.partitions import list_partitions
from penstock_worker.store.retention.figures import TypePlan, plan_of
from penstock_worker.store.retention.months import drop_month, holds_rows, may_be_held, months_to_drop, partition_table
from penstock_worker.store.retention.pace import OutOfTime, Pace
from penstock_worker.store.retention.rows import Purge, roughly_pages_of
from penstock_worker.store.retention.rules import Rules, table_of

__all__ = ["Plan", "make_plan", "purge", "rules_of"]

logger = logging.getLogger(__name__)

#: Milliseconds that a statement may wait for a table's lock; rows it never waits for.
_LOCK_TIMEOUT_MS = 100
_FROM_THE_BEGINNING: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Plan:
    """What would go now: by type, and dead letters by kind (how many, after how many days)."""

    types: list[TypePlan]
    letters: dict[str, dict[str, int]]


def rules_of(work: Work) -> Rules:
    """The conditions of this run."""
    return Rules(work.registry, work.now, timedelta(days=work.settings.tombstone_days))


def make_plan(connection: Connection, settings: Settings, rules: Rules) -> Plan:
    """Look at every table, of large ones at a sample; nothing is changed."""
    types = [plan_of(connection, settings, rules, record) for record in rules.registry.values()]
    letters = {due.name: {"days": due.days, "due": _count(connection, due)} for due in letters_due(settings, rules.now)}
    return Plan(types, letters)


def purge(work: Work) -> dict[str, Any]:
    """
    Delete what is due, for as long as the settings say.

    With the argument `all` until nothing is left, with `at_once` also while the tables rest. In a dry run: what would go.
    """
    if work.is_dry_run:
        return _told(make_plan(work.connection, work.settings, rules_of(work)))
    work.connection.execute(f"SET lock_timeout = {_LOCK_TIMEOUT_MS}")
    # What a crash of the server takes back is deleted again; without the wait for the disk, rows are locked for less time.
    work.connection.execute("SET synchronous_commit = off")
    # Rows are known by their places and keys. Where a table is small PostgreSQL would rather read all of it, for every step.
    work.connection.execute("SET enable_seqscan = off")
    # A family of millions is looked at in one statement, which locks nothing.
    work.connection.execute("SET statement_timeout = '10min'")
    is_whole = bool(work.arguments.get("all"))
    pace = Pace(None if is_whole else work.settings.retention_time_limit_s, work.settings.retention_work_share)
    run = _Run(work, pace)
    run.go(_FROM_THE_BEGINNING if is_whole else _left_off(work))
    while is_whole and run.has_changed:
        run.go(_FROM_THE_BEGINNING)
    return run.counts()


@dataclass
class _Run:
    """One run, or one of several passes of it."""

    work: Work
    pace: Pace
    dropped: list[str] = field(default_factory=list)
    letters: int = 0
    #: Types that are left to the next run, each with why.
    left: dict[str, str] = field(default_factory=dict)
    #: Where the next run goes on: the type and the page.
    next: dict[str, Any] = field(default_factory=dict)
    has_changed: bool = False
    #: Whether it begins a pass, and does not go on with one.
    _begins: bool = False
    #: Tables that were gone through to their end.
    tables: int = 0
    purge: Purge = field(init=False)
    _pages_done: int = 0
    _pages: int = 0

    def __post_init__(self) -> None:
        self.purge = Purge(self.work.connection, rules_of(self.work), self.pace)

    def go(self, left_off: dict[str, Any] | None) -> None:
        """Pass over everything, or over what is left from where the last run stopped; None: the tables rest."""
        before = self._changes()
        self.next = left_off or {}
        self._begins = left_off == _FROM_THE_BEGINNING
        try:
            for record in self._types(is_append_only=True):
                self._guard(record, self._drop_months)
            self._discard_letters()
            if left_off is not None:
                self._sweep(left_off)
        except OutOfTime:
            pass
        self.has_changed = self._changes() != before

    def counts(self) -> dict[str, Any]:
        """For the row of the run; what there was none of is left out."""
        counts = {
            "dropped": self.dropped,
            "deleted": dict(+self.purge.deleted),
            "emptied": dict(+self.purge.emptied),
            "letters": self.letters,
            "left": self.left,
            "transactions": self.pace.transactions,
            "over_100_ms": self.pace.long_transactions,
            "longest_lock_ms": self.pace.longest_ms,
            "next": self.next,
            "tables": self.tables,
        }
        return {name: value for name, value in counts.items() if value}

    def _types(self, *, is_append_only: bool) -> list[RecordType]:
        """Children before their parents: a parent that becomes childless goes in the same run."""
        types = reversed(list(self.work.registry.values()))
        return [record for record in types if (record.declaration.append_only is not None) == is_append_only]

    def _changes(self) -> tuple[int, ...]:
        return len(self.dropped), self.purge.deleted.total(), self.purge.emptied.total(), self.letters

    def _drop_months(self, record: RecordType) -> None:
        connection, registry = self.work.connection, self.work.registry
        if not self._begins and may_be_held(connection, record):
            return  # to look for what is on hold reads whole months: once a pass
        for month in months_to_drop(connection, record, self.work.now):
            if drop_month(connection, registry, record, month, self.pace.sleep):
                self.dropped.append(f"{record.declaration.schema}.{month.name}")
            elif holds_rows(connection, registry, record, month):
                self.purge.sweep_month(record, partition_table(record, month))
            else:
                self.left[record.name] = "its table is in use"
        if self._begins:
            self._sweep_past(record)

    def _sweep_past(self, record: RecordType) -> None:
        """A type that was kept for ever has one partition of all times past: what is due of it goes row by row."""
        begin, _ = kept_months(record, self.work.now)
        for part in list_partitions(self.work.connection, record):
            if begin is not None and part.begin is None and begin < part.end:
                self.purge.sweep_month(record, partition_table(record, part), begin)

    def _discard_letters(self) -> None:
        for letters in discard_old(self.work.connection, self.work.settings, self.work.now, self.pace):
            self.letters += letters

    def _sweep(self, left_off: dict[str, Any]) -> None:
        types = self._types(is_append_only=False)
        names = [record.name for record in types]
        is_known = left_off.get("type") in names  # else nothing was left, or the type is no more
        first, page = (names.index(left_off["type"]), int(left_off["page"])) if is_known else (0, 0)
        self._pages = roughly_pages_of(self.work.connection, map(table_of, types[first:]))
        self._pages_done = 0
        for record in types[first:]:
            self.next = {"type": record.name, "page": page}
            self._guard(record, self._sweep_type)
            self.tables, page = self.tables + 1, 0
        self.next = {}

    def _sweep_type(self, record: RecordType) -> None:
        start = int(self.next["page"])
        for page in self.purge.sweep(record, start):
            self.next = {"type": record.name, "page": page}
            self.work.progress(self._pages_done + page, max(self._pages, self._pages_done + page))
        self._pages_done += int(self.next["page"])

    def _guard(self, record: RecordType, work: Callable[[RecordType], None]) -> None:
        """What stands in the way of one type keeps no other one from its purge."""
        try:
            work(record)
        except psycopg.errors.LockNotAvailable:
            self.left[record.name] = "its table is in use"
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.InvalidSchemaName) as exc:
            self.left[record.name] = f"the database is not migrated ({str(exc).splitlines()[0]}): run `penstock migrate up`"
        except psycopg.errors.ForeignKeyViolation as exc:
            # Of a table that is none of ours: of our own, who would refer to it waits for the row's lock.
            self.left[record.name] = f"another table refers to it: {str(exc).splitlines()[0]}"
            logger.exception("rows of %s cannot be deleted", record.name, extra={"action": "retention_refused"})


def _left_off(work: Work) -> dict[str, Any] | None:
    """Where the last run stopped, or the beginning; None where a pass has ended so lately that the tables rest."""
    row = work.connection.execute(
        "WITH runs AS (SELECT * FROM penstock.maintenance_runs"
        " WHERE job = 'retention' AND state = 'done' AND NOT is_dry_run)"
        " SELECT counts -> 'next', (SELECT max(ended_at) FROM runs WHERE counts ? 'tables' AND NOT counts ? 'next')"
        " FROM runs ORDER BY id DESC LIMIT 1"
    ).fetchone()
    position, ended = row or (None, None)
    if isinstance(position, dict):
        return position
    rest = timedelta(seconds=work.settings.retention_rest_s)
    is_resting = isinstance(ended, datetime) and ended <= work.now < ended + rest and not work.arguments.get("at_once")
    return None if is_resting else _FROM_THE_BEGINNING


def _count(connection: Connection, due: LettersDue) -> int:
    query = sql.SQL("SELECT count(*) FROM penstock.dead_letters WHERE {}")
    row = connection.execute(query.format(due.condition)).fetchone()
    return int(str(row[0])) if row else 0


def _told(plan: Plan) -> dict[str, Any]:
    """A plan as the counts of a run."""
    types = {}
    for one in plan.types:
        told: dict[str, Any] = {"due": one.due, "idle": one.idle, "on_hold": one.on_hold, "estimated": not one.is_exact}
        told |= {"months": [month.name for month in one.months if not month.is_on_hold]}
        if one.due or one.idle or one.on_hold or one.months:
            types[one.type] = {name: value for name, value in told.items() if value}
    letters = {name: told["due"] for name, told in plan.letters.items() if told["due"]}
    return {"would_go": types} | ({"letters": letters} if letters else {})
