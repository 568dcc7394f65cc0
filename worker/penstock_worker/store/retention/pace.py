"""How fast a purge works: small transactions of about the same time, pauses between them, and an end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = ["OutOfTime", "Pace", "Size"]


#: Seconds for which nobody should have to wait for a purge.
LONG_S = 0.1


class OutOfTime(Exception):  # noqa: N818  # a state, not a mistake
    """Raised between two pieces of work when the run has taken its time; all that was done stays done."""


@dataclass
class Pace:
    """
    The time of one run.

    Args:
        limit_s: After so many seconds it ends; None: when all is done.
        work_share: The share of the time in which it works; the database is others' for the rest.
        clock: Seconds, rising.
        sleep: Waits.
    """

    limit_s: float | None
    work_share: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    #: Milliseconds of the longest transaction in which rows were locked, how many there were, and how many took too long.
    longest_ms: float = 0
    transactions: int = 0
    long_transactions: int = 0
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self.clock()

    @contextmanager
    def piece(self, size: Size, there_is: int, *, locks: bool = False) -> Iterator[int]:
        """
        Around a piece of work, which gets how much it takes on; it ends with the pause that the work has earned.

        Args:
            size: Says how much, and learns from it.
            there_is: It takes on no more than this.
            locks: Rows are locked meanwhile.
        """
        taken_on, begin = min(size.value, there_is), self.clock()
        with self.paused():
            yield taken_on
            seconds = self.clock() - begin
        size.learn(taken_on, seconds)
        if locks:
            self.longest_ms = max(self.longest_ms, round(seconds * 1000, 1))
            self.transactions += 1
            self.long_transactions += seconds > LONG_S

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Around a piece of work whose size is given; the pause comes after it."""
        begin = self.clock()
        yield
        self.sleep((self.clock() - begin) * (1 / self.work_share - 1))

    def check(self) -> None:
        """
        Go on, if there is time left. Called where something has been done, so that a run with too little time gets on too.

        Raises:
            OutOfTime: There is none.
        """
        if self.limit_s is not None and self.clock() - self._began >= self.limit_s:
            raise OutOfTime


@dataclass
class Size:
    """
    How much one piece of work takes on: it follows the time that pieces take.

    Args:
        value: What it begins with.
        aim_s: Seconds a piece should take.
        limit: What it is at most.
    """

    value: int
    aim_s: float
    limit: int

    def learn(self, taken_on: int, seconds: float) -> None:
        """Grow to the double at most, and shrink as fast as it must. A piece that was cut short is no reason to grow."""
        if taken_on < self.value and seconds <= self.aim_s:
            return
        factor = min(self.aim_s / max(seconds, 1e-4), 2)
        self.value = min(max(int(taken_on * factor), 1), self.limit)
