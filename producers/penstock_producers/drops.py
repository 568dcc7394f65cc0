"""Events that were counted and given up: totals for people, ranges for the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from penstock_schemas.ranges import Ranges
from penstock_schemas.wire import DroppedRange

__all__ = [
    "BUFFER_FULL",
    "CLOSE_DEADLINE",
    "INTERRUPTED",
    "RANGES_PER_ENVELOPE",
    "REASONS",
    "SPOOL_CORRUPT",
    "SPOOL_FULL",
    "TOO_LARGE",
    "WARNING_EVERY_S",
    "Drops",
]

#: The buffer had no room, and the policy is to drop.
BUFFER_FULL = "buffer_full"
#: Still unconfirmed when the time for closing was over. The broker may have some of them.
CLOSE_DEADLINE = "close_deadline"
#: An exception from outside (of a signal handler, or no memory) came between its number and its place; publish() raised it.
INTERRUPTED = "interrupted"
#: Durability "journal", and the disk did not take the event.
SPOOL_FULL = "spool_full"
#: The broker takes no message of its size: its administrator has set a lower limit than a record's.
TOO_LARGE = "too_large"
#: They were in this producer's own spool file, which can no longer be read and is set aside.
SPOOL_CORRUPT = "spool_corrupt"
REASONS = (BUFFER_FULL, CLOSE_DEADLINE, INTERRUPTED, SPOOL_FULL, TOO_LARGE, SPOOL_CORRUPT)

#: Drops come in crowds: one line of log in this many seconds tells of them all.
WARNING_EVERY_S = 10
#: Dropped ranges in one envelope: at most 50 bytes each, so that they fit beside a record of the largest size.
RANGES_PER_ENVELOPE = 500
#: Ranges of dropped numbers remembered for those who wait; of older ones the worker's ledger tells.
_MAX_RANGES = 10_000


class Drops:
    """Not safe under threads by itself: the buffer's lock guards it."""

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self.seqs = Ranges()
        #: Ranges not yet in an envelope: (reason, last) -> first. By their end, because numbers only grow.
        self._ranges: dict[tuple[str, int], int] = {}
        #: Those that are in one, in the order in which they went: the broker may lose it.
        self._told: dict[tuple[str, int], int] = {}

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def add(self, seq: int, reason: str) -> None:
        """Count one event, joined to the range that ends before it."""
        self.totals[reason] += 1
        # In this order: a handler that raises in between has a range told twice, and none not at all.
        self._ranges[reason, seq] = self._ranges.get((reason, seq - 1), seq)
        self._ranges.pop((reason, seq - 1), None)
        self.seqs.add(seq, seq)
        if len(self.seqs) > _MAX_RANGES:
            self.seqs.forget_lowest(_MAX_RANGES // 2)

    def put_back(self, ranges: Iterable[DroppedRange]) -> None:
        """Taken, and not delivered: they go with the next envelope."""
        for part in ranges:
            self._ranges[part.reason, part.last] = part.first
            self._told.pop((part.reason, part.last), None)

    def tell_again(self) -> None:
        """The broker has lost something: all that is remembered goes once more. To hear it twice changes nothing."""
        self._ranges.update(self._told)
        self._told.clear()

    def take(self, limit: int | None = None) -> list[DroppedRange]:
        """Up to `limit` ranges, lowest first, or all; they are the caller's to deliver now."""
        ranges = sorted((first, last, reason) for (reason, last), first in self._ranges.items())[:limit]
        for first, last, reason in ranges:
            self._told[reason, last] = first
            del self._ranges[reason, last]
        while len(self._told) > _MAX_RANGES:
            del self._told[next(iter(self._told))]
        return [DroppedRange(*part) for part in ranges]
