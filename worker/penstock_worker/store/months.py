"""Which months an append-only table keeps: from the oldest its retention reaches to two ahead."""

from __future__ import annotations

from datetime import datetime, timedelta

from penstock_schemas.record import RecordType

__all__ = ["MONTHS_AHEAD", "MONTHS_BACK", "kept_months", "month_of", "months_later"]

#: Months made ahead of the running one.
MONTHS_AHEAD = 2
#: Months made before the running one where rows are kept for ever.
MONTHS_BACK = 12


def month_of(at: datetime) -> datetime:
    """The beginning of a time's month, in the time's own zone."""
    return at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def months_later(at: datetime, months: int) -> datetime:
    """The beginning of the month that is so many after the time's."""
    index = at.year * 12 + at.month - 1 + months
    return month_of(at).replace(year=index // 12, month=index % 12 + 1)


def kept_months(record: RecordType, now: datetime) -> tuple[datetime | None, datetime]:
    """
    The window of an append-only type.

    Args:
        record: Its retention counts; None keeps rows for ever.
        now: In UTC, as partitions are.

    Returns:
        The beginning of the oldest month that is kept, None for ever, and the end of the last one that is made ahead.
    """
    retention: timedelta | None = record.declaration.retention
    return month_of(now - retention) if retention else None, months_later(now, MONTHS_AHEAD + 1)
