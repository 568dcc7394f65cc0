"""What is asked for those who wait, and when: about all of their events in one query, and one query at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from penstock_producers.known import NEVER, Known
from penstock_producers.questions import Question
from penstock_schemas.answer import MAX_QUERY_RANGES, SeqRange
from penstock_schemas.ranges import Ranges

__all__ = ["Asking", "Want"]

#: Seconds that an answer may take which comes by itself, before it is asked for.
_DIRECT_S = 3.0
#: Seconds of the first pause after "unknown"; it doubles, up to the second.
_PAUSE_S = (0.05, 2.0)
#: Numbers around a wanted one that are asked about with it: usually those will be wanted next.
_AROUND = 10_000


@dataclass(slots=True, eq=False)
class Want:
    """
    Numbers that somebody waits for.

    Args:
        is_barrier: It is enough that they have ended, however.
        direct_at: When also those are asked about whose answer comes by itself.
        due_at: When they are asked about.
        pause_s: Until they are asked about again, after "unknown".
    """

    first: int
    last: int
    direct_at: float = math.inf
    due_at: float = math.inf
    pause_s: float = _PAUSE_S[0]
    is_barrier: bool = False
    is_asked: bool = False


class Asking:
    """
    Not safe under threads by itself: the lock of `Answers` guards it.

    Args:
        ask: Sends a query about numbers of this epoch.
    """

    def __init__(self, known: Known, ask: Callable[[Sequence[SeqRange]], None]) -> None:
        self.wants: set[Want] = set()
        self._known = known
        self._ask = ask
        self._question = Question()
        #: Events from here on are cut with the address: their answers come by themselves.
        self._direct_from = NEVER

    def move(self, direct_from: int | None) -> None:
        """The mailbox is at another address, or at none: what is under way is answered to nobody."""
        self._direct_from = NEVER if direct_from is None else direct_from
        self._question.close()

    def serve(self, want: Want, now: float) -> None:
        """Ask about it now, and if it comes to that, later what should come by itself."""
        want.due_at, want.direct_at = now, now + _DIRECT_S
        self.ask_due(now)

    def ask_due(self, now: float) -> None:
        """Ask about all that is due, in one query, unless one is under way."""
        if not self._question.is_free(now):
            return
        wanted, around = self._look_for_due(now)
        if not wanted:
            return
        both = Ranges(wanted)
        for first, last in around:
            for gap in self._known.gaps(first, last):
                both.add(*gap)
        ranges = list(both if len(both) <= MAX_QUERY_RANGES else wanted)[:MAX_QUERY_RANGES]
        self._question.ask(ranges, now)
        self._ask(ranges)

    def _look_for_due(self, now: float) -> tuple[Ranges, Ranges]:
        """Numbers that are due, and those around them."""
        wanted, around = Ranges(), Ranges()
        for want in self.wants:
            if want.due_at > now:
                continue
            missed = self._missed(want, now)
            if not missed:
                want.due_at = max(want.direct_at, now + want.pause_s)
                continue
            want.is_asked = True
            for first, last in missed:
                wanted.add(first, last)
                if want.pause_s == _PAUSE_S[0]:
                    around.add(max(0, first - _AROUND), max(last, min(last + _AROUND, self._direct_from - 1)))
        return wanted, around

    def _missed(self, want: Want, now: float) -> list[SeqRange]:
        last = want.last if now >= want.direct_at else min(want.last, self._direct_from - 1)
        first = max(want.first, self._known.ended_below) if want.is_barrier else want.first
        return [] if last < first else self._known.gaps(first, last)

    def hear(self, told: Sequence[SeqRange], now: float) -> None:
        """An answer about these numbers has come."""
        if not self._question.is_answered_by(told):
            return
        self._question.close()
        for want in self.wants:
            if want.is_asked:
                want.is_asked, want.due_at = False, now + want.pause_s
                want.pause_s = min(2 * want.pause_s, _PAUSE_S[1])

    def next_due_at(self) -> float:
        """When there may be something to ask; infinity for never."""
        return max(min((want.due_at for want in self.wants), default=math.inf), self._question.until)
