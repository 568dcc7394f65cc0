"""Queries: one at a time and epoch, asked again later and later, so that a backlog is not multiplied by them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from uuid import UUID

from penstock_schemas.answer import MAX_QUERY_RANGES, SeqRange
from penstock_schemas.ranges import Ranges
from penstock_schemas.wire import Envelope

__all__ = ["Doubt", "Queries", "Question"]

#: Seconds that a query may take before it is asked again; they double, up to the second.
_PATIENCE_S = (2.0, 60.0)


class Queries:
    """
    Those that wait for the sender. The buffer's lock guards them.

    While the broker is away they do not pile up: those about one epoch become one. None of them is left out, for a journal and
    somebody who waits for a receipt may ask at the same time.
    """

    def __init__(self, producer: str) -> None:
        self._producer = producer
        self._waiting: dict[UUID, Envelope] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, epoch: UUID, ranges: Iterable[SeqRange], reply_to: str | None) -> None:
        asked = Ranges(ranges)
        former = self._waiting.pop(epoch, None)
        for part in former.query if former is not None else ():
            asked.add(*part)
        joined = tuple(asked)[:MAX_QUERY_RANGES]
        self._waiting[epoch] = Envelope(self._producer, epoch, 0, reply_to=reply_to, query=joined)

    def pop(self) -> Envelope:
        """The one that waits longest."""
        return self._waiting.pop(next(iter(self._waiting)))


class Question:
    """What is asked about one epoch."""

    def __init__(self) -> None:
        self.until = -math.inf
        self._asked: Sequence[SeqRange] = ()
        self._patience_s = _PATIENCE_S[0]

    def is_free(self, now: float) -> bool:
        """Whether nothing is under way, or for too long already."""
        return now >= self.until

    def ask(self, ranges: Sequence[SeqRange], now: float) -> None:
        """A query leaves."""
        self._asked = ranges
        self.until = now + self._patience_s
        self._patience_s = min(2 * self._patience_s, _PATIENCE_S[1])

    def is_answered_by(self, ranges: Iterable[SeqRange]) -> bool:
        """Whether an answer is about what was asked, were it cut off at the end."""
        if not self._asked:
            return False
        number = self._asked[0][0]
        return any(first <= number <= last for first, last in ranges)

    def close(self, until: float = -math.inf) -> None:
        """It is answered; nothing is asked before `until`."""
        self._asked = ()
        self.until = until
        self._patience_s = _PATIENCE_S[0]

    def about(self, first: int, last: int) -> list[SeqRange]:
        """What of these numbers was asked."""
        return Ranges(self._asked).within(first, last)


class Doubt:
    """What is believed lost of one epoch once it is called unknown twice; see `Listener.unknown`."""

    def __init__(self) -> None:
        self.question = Question()
        self._unknown = Ranges()

    def hear(self, unknown: Iterable[SeqRange]) -> list[SeqRange]:
        """
        Take what an answer calls unknown.

        Returns:
            What of it was asked, and had been called unknown before. It is doubted no more: what is sent again begins anew.
        """
        asked = [part for ends in unknown for part in self.question.about(*ends)]
        lost = [part for ends in asked for part in self._unknown.within(*ends)]
        fresh = Ranges(asked)
        self._unknown = Ranges() if lost else Ranges([*self._unknown, *fresh])
        return lost
