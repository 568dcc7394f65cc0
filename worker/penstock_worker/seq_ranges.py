"""Sets of event numbers as ranges, both ends included: sorted, and neither overlapping nor touching each other."""

from __future__ import annotations

from collections.abc import Iterable

from psycopg.types.multirange import Multirange

from penstock_schemas.answer import SeqRange

__all__ = ["count", "from_multirange", "intersect", "join", "subtract"]


def join(ranges: Iterable[SeqRange]) -> list[SeqRange]:
    """Any ranges, in any order, as a set."""
    joined: list[SeqRange] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        elif first <= last:
            joined.append((first, last))
    return joined


def subtract(ranges: Iterable[SeqRange], others: Iterable[SeqRange]) -> list[SeqRange]:
    """What of a set is not in the other one."""
    left: list[SeqRange] = []
    taken = join(others)
    place = 0
    for start, last in join(ranges):
        first = start
        while place < len(taken) and taken[place][1] < first:
            place += 1
        cut = place
        while cut < len(taken) and taken[cut][0] <= last:
            if taken[cut][0] > first:
                left.append((first, taken[cut][0] - 1))
            first = taken[cut][1] + 1
            cut += 1
        if first <= last:
            left.append((first, last))
    return left


def intersect(ranges: Iterable[SeqRange], others: Iterable[SeqRange]) -> list[SeqRange]:
    """What is in both sets."""
    ours = join(ranges)
    return subtract(ours, subtract(ours, others))


def count(ranges: Iterable[SeqRange]) -> int:
    """How many numbers a set has."""
    return sum(last - first + 1 for first, last in ranges)


def from_multirange(ranges: Multirange[int] | None) -> list[SeqRange]:
    """PostgreSQL's int8multirange, whose upper ends are not included."""
    return [(part.lower, part.upper - 1) for part in ranges or () if part.lower is not None and part.upper is not None]
