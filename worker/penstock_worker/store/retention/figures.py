"""What would go: per type how many rows or months, how many are kept by a hold, and when the next ones are due."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg import sql

from penstock_schemas.record import RecordType
from penstock_worker.settings import Settings
from penstock_worker.store.connection import Connection
from penstock_worker.store.legal_holds import on_hold
from penstock_worker.store.months import kept_months
from penstock_worker.store.partitions import Partition, list_partitions
from penstock_worker.store.retention.months import holds_rows
from penstock_worker.store.retention.policy import Policy, policy_of
from penstock_worker.store.retention.rows import pages_of
from penstock_worker.store.retention.rules import Rules, newest, table_of

__all__ = ["MonthDue", "TypePlan", "plan_of"]

#: Pages of a table that are read to estimate; of one that is not larger all are, and the figures are exact.
PAGES_READ = 4_096


@dataclass(frozen=True, slots=True)
class MonthDue:
    """A month that is out of the window; without `begin` all before. `rows` is PostgreSQL's estimate, None before its first."""

    name: str
    begin: datetime | None
    end: datetime
    rows: int | None
    bytes: int
    is_on_hold: bool


@dataclass(frozen=True, slots=True)
class TypePlan:
    """
    What retention means for a type now.

    Args:
        type: Its name.
        policy: How long its rows are kept, and who says so.
        cutoff: Older rows go.
        is_exact: The counts are; else they are estimates from a sample of the table's pages.
        rows: Placeholders and tombstones included.
        due: Rows that go for their age, with what hangs on them.
        idle: Tombstones and placeholders that go.
        on_hold: Rows that would go and are on hold themselves or by their parent.
        next_due: When the next row or month goes.
        months: Of an append-only type, those that go as a whole.
    """

    type: str
    policy: Policy
    cutoff: datetime | None
    is_exact: bool
    rows: int = 0
    due: int = 0
    idle: int = 0
    on_hold: int = 0
    next_due: datetime | None = None
    months: list[MonthDue] = field(default_factory=list)


def plan_of(connection: Connection, settings: Settings, rules: Rules, record: RecordType) -> TypePlan:
    """The plan of one type; it reads a bounded part of its table."""
    if record.declaration.append_only:
        return _months(connection, settings, rules, record)
    return _rows(connection, settings, rules, record)


def _months(connection: Connection, settings: Settings, rules: Rules, record: RecordType) -> TypePlan:
    policy = policy_of(settings, rules.registry, record.name)
    begin, _ = kept_months(record, rules.now)
    partitions = list_partitions(connection, record)
    rows = sum(max(month.rows, 0) for month in partitions)
    if begin is None or policy.retention is None:
        return TypePlan(record.name, policy, None, is_exact=False, rows=rows)
    due = [_month(connection, rules, record, month) for month in partitions if month.end <= begin]
    later = [month.end + policy.retention for month in partitions if month.end > begin]
    return TypePlan(
        record.name,
        policy,
        rules.now - policy.retention,
        is_exact=False,
        rows=rows,
        due=sum(month.rows or 0 for month in due if not month.is_on_hold),
        on_hold=sum(month.rows or 0 for month in due if month.is_on_hold),
        next_due=min(later, default=None),
        months=due,
    )


def _month(connection: Connection, rules: Rules, record: RecordType, month: Partition) -> MonthDue:
    is_on_hold = holds_rows(connection, rules.registry, record, month)
    rows = month.rows if month.rows >= 0 else None
    return MonthDue(month.name, month.begin, month.end, rows, month.bytes, is_on_hold)


def _rows(connection: Connection, settings: Settings, rules: Rules, record: RecordType) -> TypePlan:
    policy, cutoff = policy_of(settings, rules.registry, record.name), rules.cutoff(record)
    pages = pages_of(connection, table_of(record))
    share = min(1.0, PAGES_READ / max(pages, 1))
    query = sql.SQL(
        "SELECT count(*), count(*) FILTER (WHERE {due}), count(*) FILTER (WHERE {idle}),"
        " count(*) FILTER (WHERE {held}), to_timestamp(min({newest}) FILTER (WHERE {later}) / 1000000.0)"
        " FROM {table} r {sample}"
    ).format(
        due=rules.expired(record),
        idle=sql.SQL("({} AND NOT {})").format(rules.idle(record), rules.expired(record)),
        held=sql.SQL("({} AND {})").format(rules.is_of_age(record), on_hold(rules.registry, record)),
        newest=newest("r"),
        later=sql.SQL("r._version IS NOT NULL AND {} >= {}").format(newest("r"), cutoff or 0),
        table=table_of(record),
        sample=sql.SQL("" if share == 1 else f"TABLESAMPLE SYSTEM ({share * 100:.6f})"),
    )
    row: tuple[Any, ...] | None = connection.execute(query).fetchone()
    assert row is not None  # an aggregate has a row
    *counts, oldest = row
    rows, due, idle, on_hold_now = (round(count / share) for count in counts)
    return TypePlan(
        record.name,
        policy,
        rules.now - policy.retention if policy.retention else None,
        is_exact=share == 1,
        rows=rows,
        due=due,
        idle=idle,
        on_hold=on_hold_now,
        next_due=oldest + policy.retention if policy.retention and oldest else None,
    )
