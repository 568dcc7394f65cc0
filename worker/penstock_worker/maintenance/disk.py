"""The job that reads how large tables are, so that their growth shows, and that alarms before the disk is full."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.filesize import decimal

from penstock_schemas.registry import Registry
from penstock_worker.maintenance.job import Work
from penstock_worker.settings import Settings
from penstock_worker.store.connection import Connection
from penstock_worker.store.disk import (
    DATABASE,
    Growth,
    TableSize,
    database_bytes,
    measure_tables,
    read_growth,
    record_sizes,
    thin_readings,
)
from penstock_worker.store.named_tables import all_tables

__all__ = ["DiskUse", "look_at_disk", "read_disk"]

logger = logging.getLogger(__name__)

_WHAT_TO_DO = "shorten what is kept, or make room and raise PENSTOCK_DISK_ALARM_BYTES"


@dataclass(frozen=True, slots=True)
class DiskUse:
    """
    What is on disk and how it grows, by name of the table; `growth` has the whole database's under `DATABASE`.

    `days_left` is when `disk_alarm_bytes` will be reached at the last week's growth, None where it will not or nobody knows.
    `alarm` is one line, None where all is well.
    """

    tables: Sequence[TableSize]
    total_bytes: int
    growth: dict[str, Growth]
    days_left: float | None
    alarm: str | None


def look_at_disk(connection: Connection, registry: Registry, settings: Settings, now: datetime) -> DiskUse:
    """Measure; nothing is written."""
    tables, total = measure_tables(connection, all_tables(registry)), database_bytes(connection)
    growth = read_growth(connection, {DATABASE: total} | {table.name: table.bytes for table in tables}, now)
    per_day = growth.get(DATABASE, Growth()).per_day
    days_left = _days_left(total, per_day, settings.disk_alarm_bytes)
    return DiskUse(tables, total, growth, days_left, _alarm(total, per_day, days_left, settings))


def read_disk(work: Work) -> dict[str, Any]:
    """
    Keep a reading of every table's size; remove those older than `disk_readings_days`, and over a week ago all but one a day.

    Safe to run twice. An alarm is an ERROR line of the log, and in the counts.
    """
    use = look_at_disk(work.connection, work.registry, work.settings, work.now)
    with work.connection.transaction():
        record_sizes(work.connection, use.tables, use.total_bytes, work.now)
        removed = thin_readings(work.connection, work.now, work.settings.disk_readings_days)
    if use.alarm:
        logger.error("disk alarm: %s", use.alarm, extra={"action": "disk_alarm", "bytes": use.total_bytes})
    return {"tables": len(use.tables), "bytes": use.total_bytes, "removed_readings": removed, "alarm": use.alarm}


def _days_left(total: int, per_day: int | None, limit: int | None) -> float | None:
    if limit is None or per_day is None or per_day <= 0:
        return None
    return round(max(0, limit - total) / per_day, 1)


def _alarm(total: int, per_day: int | None, days_left: float | None, settings: Settings) -> str | None:
    limit = settings.disk_alarm_bytes
    if limit is None:
        return None
    if total >= limit:
        return f"the database has {decimal(total)}, the alarm is at {decimal(limit)}: {_WHAT_TO_DO}"
    if days_left is not None and days_left <= settings.disk_alarm_days:
        ahead = f"at {decimal(per_day or 0)} a day it has {decimal(limit)} in {days_left:g} days"
        return f"the database has {decimal(total)}, {ahead}: {_WHAT_TO_DO}"
    return None
