"""A listener hears of every answer, and what it misses is asked for: the journal is one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol
from uuid import UUID

from penstock_producers.questions import Doubt
from penstock_schemas.answer import MAX_QUERY_RANGES, SeqRange

__all__ = ["Listener", "Listening"]

#: Seconds between two looks at what a listener misses.
_EVERY_S = 1.0
#: Seconds after an answer, before its epoch is asked about again.
_PAUSE_S = 2.0


class Listener(Protocol):
    """
    Who wants to hear of every answer, as the journal does. All methods are called by the thread of `Answers` and by no other,
    without a lock held; they must not wait for a broker. What they raise is logged, and the next turn calls them again.
    """

    def overdue(self) -> Mapping[UUID, Sequence[SeqRange]]:
        """
        What to ask about, by epoch, any epoch: numbers that the broker CONFIRMED some seconds ago, or long ago by an earlier
        process, and whose answer has not come. At most a few hundred ranges; the rest at the next call.

        Called every second. One query per epoch is under way at a time, and one that is not answered is asked again later and
        later: a backlog is not multiplied.
        """

    def settled(self, epoch: UUID, outcome: str, first: int, last: int) -> None:
        """These numbers have ended, with one of `PRECEDENCE`; said again and again if the answer comes again and again."""

    def unknown(self, epoch: UUID, first: int, last: int) -> None:
        """
        The ledger has nothing of these numbers, asked about because they were `overdue`: the broker has lost them. Two answers
        in a row have said so, seconds apart, for one batch may overtake another.
        """


class Listening:
    """
    Used by one thread only.

    Args:
        ask: Sends a query about numbers of an epoch.
        now: A monotonic clock, in seconds.
    """

    def __init__(self, ask: Callable[[UUID, Sequence[SeqRange]], None], now: Callable[[], float]) -> None:
        self._ask = ask
        self._now = now
        self._doubts: dict[UUID, Doubt] = {}
        self._next_at = -math.inf

    def tell(self, listener: Listener, epoch: UUID, ended: Sequence[tuple[str, int, int]], unknown: Sequence[SeqRange]) -> None:
        """An answer has come."""
        for outcome, first, last in ended:
            listener.settled(epoch, outcome, first, last)
        doubt = self._doubts.get(epoch)
        if doubt is None or not doubt.question.is_answered_by([*unknown, *((first, last) for _, first, last in ended)]):
            return
        for first, last in doubt.hear(unknown):
            listener.unknown(epoch, first, last)
        doubt.question.close(until=self._now() + _PAUSE_S)

    def ask_for(self, listener: Listener) -> None:
        """Ask for what it misses, once a second."""
        now = self._now()
        if now < self._next_at:
            return
        self._next_at = now + _EVERY_S
        overdue = listener.overdue()
        for epoch in self._doubts.keys() - overdue.keys():
            del self._doubts[epoch]
        for epoch, ranges in overdue.items():
            doubt = self._doubts.setdefault(epoch, Doubt())
            if ranges and doubt.question.is_free(now):
                doubt.question.ask(ranges[:MAX_QUERY_RANGES], now)
                self._ask(epoch, ranges[:MAX_QUERY_RANGES])
