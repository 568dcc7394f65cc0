"""Sets of event numbers, kept as ranges: a million numbers in a row take as much room as one."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from operator import itemgetter

from penstock_schemas.answer import SeqRange

__all__ = ["Ranges"]


_first, _last = itemgetter(0), itemgetter(1)


class Ranges:
    """
    A set of numbers as sorted ranges that neither overlap nor touch; both ends are included.

    Changed by one thread at a time, each change being one step: a handler that raises meets it before or after. So it can be
    read without a lock.
    """

    def __init__(self, ranges: Iterable[SeqRange] = ()) -> None:
        self._ranges: list[SeqRange] = []
        for first, last in ranges:
            self.add(first, last)

    def __len__(self) -> int:
        return len(self._ranges)

    def __iter__(self) -> Iterator[SeqRange]:
        return iter(self._ranges[:])

    def __contains__(self, number: int) -> bool:
        place = bisect_left(self._ranges, number, key=_last)
        return place < len(self._ranges) and number >= self._ranges[place][0]

    def add(self, first: int, last: int) -> None:
        """Put numbers in, joined to what they overlap or touch."""
        if self._ranges and self._ranges[-1][1] == first - 1:  # as nearly all come
            self._ranges[-1] = (self._ranges[-1][0], last)
            return
        begin = bisect_left(self._ranges, first - 1, key=_last)
        end = bisect_right(self._ranges, last + 1, key=_first)
        if begin < end:
            first, last = min(first, self._ranges[begin][0]), max(last, self._ranges[end - 1][1])
        self._ranges[begin:end] = [(first, last)]

    def remove(self, first: int, last: int) -> list[SeqRange]:
        """Take numbers out; those that were in it."""
        removed = self.within(first, last)
        if removed:
            begin, end = self._places(first, last)
            left = [(self._ranges[begin][0], first - 1), (last + 1, self._ranges[end - 1][1])]
            self._ranges[begin:end] = [part for part in left if part[0] <= part[1]]
        return removed

    @property
    def first(self) -> float:
        """The lowest number, infinity when there is none."""
        for first, _ in self._ranges[:1]:
            return first
        return math.inf

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return sum(last - first + 1 for first, last in self)

    def forget_lowest(self, count: int) -> None:
        """Take the lowest ranges out."""
        del self._ranges[:count]

    def within(self, first: int, last: int) -> list[SeqRange]:
        """What of these numbers is in the set."""
        begin, end = self._places(first, last)
        return [(max(first, begun), min(last, ended)) for begun, ended in self._ranges[begin:end]]

    def _places(self, first: int, last: int) -> tuple[int, int]:
        return bisect_left(self._ranges, first, key=_last), bisect_right(self._ranges, last, key=_first)

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
