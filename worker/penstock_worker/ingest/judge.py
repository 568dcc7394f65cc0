"""What time says about an event before the database is asked: too far ahead, too old to keep, or no partition yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import compress
from operator import attrgetter

from penstock_worker.ingest.block import Block
from penstock_worker.ingest.groups import Groups
from penstock_worker.ingest.message import Envelope, Event
from penstock_worker.ingest.outcome import Outcome, Verdict
from penstock_worker.settings import Settings
from penstock_worker.store.months import kept_months

__all__ = ["judge", "untimely"]


def judge(groups: Groups, now_us: int, settings: Settings) -> None:
    """
    End the events that must not be written now.

    Args:
        groups: Events by type; those of append-only types have their time in `data`. Blocks are left alone, see `untimely`.
        now_us: The database's clock, in microseconds since 1970.
        settings: Says how far ahead an event may be.
    """
    limit = _limit(now_us, settings)
    now = datetime.fromtimestamp(now_us / 1_000_000, UTC)
    for events in (group.events for group in groups.values()):
        if max(map(attrgetter("version"), events), default=0) > limit:
            _judge_versions(events, limit, now_us)
        if events and events[0].record.declaration.append_only:
            _judge_times(events, *kept_months(events[0].record, now))


def untimely(blocks: Iterable[Block], now_us: int, settings: Settings) -> Iterator[Envelope]:
    """The envelopes of events in blocks that must not be written now."""
    limit = _limit(now_us, settings)
    now = datetime.fromtimestamp(now_us / 1_000_000, UTC)
    for block in blocks:
        if max(block.versions) > limit:
            yield from compress(block.envelopes, (version > limit for version in block.versions))
        if block.span is not None:
            yield from _outside(block, *kept_months(block.record, now))


def _outside(block: Block, begin: datetime | None, end: datetime) -> Iterator[Envelope]:
    assert block.span is not None, "only append-only types have one"
    first, last = block.span
    if (begin is None or begin <= first) and last < end:
        return
    times = map(datetime.fromisoformat, block.texts[str(block.record.declaration.append_only)])
    yield from compress(block.envelopes, (at >= end or (begin is not None and at < begin) for at in times))


def _limit(now_us: int, settings: Settings) -> int:
    return now_us + int(settings.clock_ahead_limit_s * 1_000_000)


def _judge_versions(events: Iterable[Event], limit: int, now_us: int) -> None:
    for event in events:
        if event.version > limit and event.verdict is None:
            ahead_s = (event.version - now_us) / 1_000_000
            event.end(Verdict(Outcome.HELD, "clock_ahead", f"{ahead_s:.0f} s ahead of the database's clock"))


def _judge_times(events: Sequence[Event], begin: datetime | None, end: datetime) -> None:
    time = str(events[0].record.declaration.append_only)
    for event in events:
        at = event.data[time]
        if event.verdict is not None:
            continue
        if begin is not None and at < begin:
            detail = f"{at} is before {begin}, the oldest month that is kept"
            event.end(Verdict(Outcome.EXPIRED, "older_than_retention", detail))
        elif at >= end:
            detail = f"{at} is not before {end}, the last month that is made ahead"
            event.end(Verdict(Outcome.HELD, "no_partition_yet", detail))
