"""
What is known of how the events of one epoch ended.

Every answer that comes is remembered, also about events that nobody waits for yet: ranges are small, and the next one to wait
is usually about the next event.
"""

from __future__ import annotations

from collections.abc import Callable

from penstock_schemas.answer import PRECEDENCE, SeqRange
from penstock_schemas.ranges import Ranges

__all__ = ["NEVER", "Known"]

#: Ranges of outcomes remembered; more, and all are forgotten and asked for again.
_MAX_RANGES = 10_000
#: Above every number of an event.
NEVER = 1 << 48


class Known:
    """
    Not safe under threads by itself: the lock of `Answers` guards it.

    Args:
        has_dropped: Whether all numbers, first to last, were given up lately by this producer.
    """

    def __init__(self, has_dropped: Callable[[int, int], bool]) -> None:
        #: Everything below has ended, however; kept when the rest is forgotten.
        self.ended_below = 0
        self._has_dropped = has_dropped
        self._ended = Ranges()
        self._by_outcome: dict[str, Ranges] = {}

    def find_outcome(self, seq: int) -> str | None:
        for outcome in PRECEDENCE:
            if outcome in self._by_outcome and seq in self._by_outcome[outcome]:
                return outcome
        return "dropped" if self._has_dropped(seq, seq) else None

    def has_ended(self, last: int) -> bool:
        """Whether everything up to there has."""
        if not all(self._has_dropped(*gap) for gap in self.gaps(self.ended_below, last)):
            return False
        self.ended_below = max(self.ended_below, last + 1)
        return True

    def gaps(self, first: int, last: int) -> list[SeqRange]:
        """What of these numbers was not answered."""
        return self._ended.gaps(first, last)

    def learn(self, outcome: str, first: int, last: int) -> None:
        self._ended.add(first, last)
        self._by_outcome.setdefault(outcome, Ranges()).add(first, last)

    def forget_if_many(self) -> None:
        """Before an answer is taken, so that who waits for it finds it."""
        if len(self._ended) + sum(map(len, self._by_outcome.values())) > _MAX_RANGES:
            # Who waits for all of them needs no more than this; without it, a mixture of outcomes would be forgotten and asked
            # for again for ever.
            self.ended_below = self._first_open()
            self._ended = Ranges()
            self._by_outcome = {}

    def _first_open(self) -> int:
        gaps = self.gaps(self.ended_below, NEVER)
        return next(first for first, last in gaps if not self._has_dropped(first, last))
