"""What time says about an event before the database is asked: too far ahead, too old to keep, or no partition yet."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from penstock_worker.ingest.message import Event
from penstock_worker.ingest.outcome import Outcome, Verdict
from penstock_worker.settings import Settings
from penstock_worker.store.months import kept_months

__all__ = ["judge"]


def judge(events: Iterable[Event], now_us: int, settings: Settings) -> None:
    """
    End the events that must not be written now.

    Args:
        events: Any events; those of append-only types have their time in `data`.
        now_us: The database's clock, in microseconds since 1970.
        settings: Says how far ahead an event may be.
    """
    limit = now_us + int(settings.clock_ahead_limit_s * 1_000_000)
    now = datetime.fromtimestamp(now_us / 1_000_000, UTC)
    windows: dict[str, tuple[datetime | None, datetime]] = {}
    for event in events:
        if event.version > limit:
            ahead = (event.version - now_us) / 1_000_000
            event.end(Verdict(Outcome.HELD, "clock_ahead", f"{ahead:.0f} s ahead of the database's clock"))
        elif event.record.declaration.append_only:
            window = windows.get(event.record.name)
            if window is None:
                window = windows[event.record.name] = kept_months(event.record, now)
            _judge_time(event, window)


def _judge_time(event: Event, window: tuple[datetime | None, datetime]) -> None:
    begin, end = window
    at = event.data[str(event.record.declaration.append_only)]
    if begin is not None and at < begin:
        event.end(Verdict(Outcome.EXPIRED, "older_than_retention", f"{at} is before {begin}, the oldest month that is kept"))
    elif at >= end:
        event.end(Verdict(Outcome.HELD, "no_partition_yet", f"{at} is not before {end}, the last month that is made ahead"))
