"""Versions: never back, never twice, one clock domain."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from penstock_producers.clock import HybridClock, process_clock, version_of
from penstock_schemas import RecordError


def test_it_follows_the_wall_clock_but_never_goes_back() -> None:
    readings = iter([5_000_999, 5_000_999, 3_000_000, 9_000_000])
    clock = HybridClock(lambda: next(readings))
    assert [clock.next_version() for _ in range(4)] == [5_000, 5_001, 5_002, 9_000]


def test_no_version_is_given_twice_under_threads() -> None:
    clock = HybridClock(lambda: 1_000)
    given: list[int] = []
    threads = [threading.Thread(target=lambda: given.extend(clock.next_version() for _ in range(500))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(given) == list(range(1, 2_001))


def test_versions_are_microseconds_utc() -> None:
    now = process_clock.next_version()
    assert abs(now - datetime.now(UTC).timestamp() * 1_000_000) < 60_000_000


@pytest.mark.parametrize(
    ("occurred_at", "version"),
    [
        (datetime(1970, 1, 1, tzinfo=UTC), 0),
        (datetime(2026, 11, 21, 3, 56, 36, 1, tzinfo=UTC), 1_795_233_396_000_001),
        (datetime(2026, 11, 21, 5, 56, 36, 1, tzinfo=timezone(timedelta(hours=2))), 1_795_233_396_000_001),
        (datetime.max.replace(tzinfo=UTC), 253_402_300_799_999_999),
    ],
)
def test_a_given_time_is_exact_to_the_microsecond(occurred_at: datetime, version: int) -> None:
    assert version_of(occurred_at) == version


@pytest.mark.parametrize(
    ("occurred_at", "reason"),
    [
        (datetime(2026, 11, 21), "has no time zone"),  # noqa: DTZ001
        (datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC), "is before 1970"),
        (1_795_233_396_000_001, "must be an aware datetime, not int"),
        ("2026-11-21T00:00:00Z", "must be an aware datetime, not str"),
    ],
)
def test_what_has_no_order_is_refused(occurred_at: Any, reason: str) -> None:
    with pytest.raises(RecordError, match=reason):
        version_of(occurred_at)
