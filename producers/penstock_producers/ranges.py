"""Sets of event numbers, kept as ranges: a million numbers in a row take as much room as one."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

from penstock_schemas.answer import SeqRange

__all__ = ["Ranges"]


class Ranges:
    """
    A set of numbers as sorted ranges that neither overlap nor touch; both ends are included.

    Not safe under threads by itself.
    """

    def __init__(self, ranges: Iterable[SeqRange] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in ranges:
            self.add(first, last)

    def __len__(self) -> int:
        return len(self._firsts)

    def __iter__(self) -> Iterator[SeqRange]:
        return zip(self._firsts, self._lasts, strict=True)

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._firsts, number) - 1
        return place >= 0 and number <= self._lasts[place]

    def add(self, first: int, last: int) -> None:
        """Put numbers in, joined to what they overlap or touch."""
        begin = bisect_left(self._lasts, first - 1)
        end = bisect_right(self._firsts, last + 1)
        if begin < end:
            first, last = min(first, self._firsts[begin]), max(last, self._lasts[end - 1])
        self._firsts[begin:end] = [first]
        self._lasts[begin:end] = [last]

    def remove(self, first: int, last: int) -> list[SeqRange]:
        """Take numbers out; those that were in it."""
        removed = self.within(first, last)
        if removed:
            begin, end = bisect_left(self._lasts, first), bisect_right(self._firsts, last)
            left = [(self._firsts[begin], first - 1), (last + 1, self._lasts[end - 1])]
            left = [part for part in left if part[0] <= part[1]]
            self._firsts[begin:end] = [part[0] for part in left]
            self._lasts[begin:end] = [part[1] for part in left]
        return removed

    @property
    def first(self) -> float:
        """The lowest number, infinity when there is none."""
        return self._firsts[0] if self._firsts else math.inf

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return sum(self._lasts) - sum(self._firsts) + len(self._firsts)

    def forget_lowest(self, count: int) -> None:
        """Take the lowest ranges out."""
        del self._firsts[:count], self._lasts[:count]

    def within(self, first: int, last: int) -> list[SeqRange]:
        """What of these numbers is in the set."""
        begin, end = bisect_left(self._lasts, first), bisect_right(self._firsts, last)
        return [(max(first, self._firsts[place]), min(last, self._lasts[place])) for place in range(begin, end)]

    def gaps(self, first: int, last: int) -> list[SeqRange]:
        """What of these numbers is not in the set."""
        gaps = []
        for held_first, held_last in self.within(first, last):
            if first < held_first:
                gaps.append((first, held_first - 1))
            first = held_last + 1
        if first <= last:
            gaps.append((first, last))
        return gaps

    def covers(self, first: int, last: int) -> bool:
        """Whether all of these numbers are in the set."""
        return not self.gaps(first, last)
