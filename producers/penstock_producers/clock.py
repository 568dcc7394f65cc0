"""
Versions: microseconds UTC, one clock domain for all producers.

A hybrid clock: it follows the wall clock, but never goes back and never says the same number twice, so that of two events of
one process the later one is the newer one, also while the wall clock is being corrected.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from penstock_producers.doorway import Doorway
from penstock_schemas import RecordError

__all__ = ["HybridClock", "process_clock", "version_of"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class HybridClock:
    """Safe under threads; reentrant, because a signal handler may publish too."""

    def __init__(self, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._now_ns = now_ns
        self._last = 0
        self._lock = threading.RLock()
        self._doorway = Doorway(self._lock)

    def next_version(self) -> int:
        """Now, or one more than the last answer."""
        now = self._now_ns() // 1_000
        doorway = self._doorway
        if doorway.entrant is not None:
            doorway.give_way()
        doorway.entrant = now
        with self._lock:
            self._last = version = now if now > self._last else self._last + 1
            if doorway.entrant is now:
                doorway.entrant = None
            return version

    def unlock_after_fork(self) -> None:
        """In a forked child: another thread of the parent may have held the lock, and it does not exist here."""
        self._lock = threading.RLock()
        self._doorway = Doorway(self._lock)


#: Shared by all producers of the process: two producers must not give one version to two states of a record.
process_clock = HybridClock()
os.register_at_fork(after_in_child=process_clock.unlock_after_fork)


def version_of(occurred_at: datetime) -> int:
    """
    The version of an event that happened at a known time.

    Raises:
        RecordError: The time has no zone, or is before 1970.
    """
    if not isinstance(occurred_at, datetime):
        raise RecordError(f"occurred_at must be an aware datetime, not {type(occurred_at).__name__}")
    if occurred_at.utcoffset() is None:
        raise RecordError(f"occurred_at {occurred_at.isoformat()} has no time zone, so it has no order")
    if occurred_at < _EPOCH:
        raise RecordError(f"occurred_at {occurred_at.isoformat()} is before 1970")
    return (occurred_at - _EPOCH) // _MICROSECOND
