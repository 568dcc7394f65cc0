"""Sets of event numbers as plain lists of ranges, as SQL and answers have them; `Ranges` does the work."""

from __future__ import annotations

from collections.abc import Iterable

from psycopg.types.multirange import Multirange

from penstock_schemas.answer import SeqRange
from penstock_schemas.ranges import Ranges

__all__ = ["count", "from_multirange", "intersect", "join", "subtract"]


def join(ranges: Iterable[SeqRange]) -> list[SeqRange]:
    """Any ranges, in any order, as a set."""
    return list(_set(ranges))


def subtract(ranges: Iterable[SeqRange], others: Iterable[SeqRange]) -> list[SeqRange]:
    """What of a set is not in the other one."""
    taken = _set(others)
    return [gap for part in _set(ranges) for gap in taken.gaps(*part)]


def intersect(ranges: Iterable[SeqRange], others: Iterable[SeqRange]) -> list[SeqRange]:
    """What is in both sets."""
    theirs = _set(others)
    return [part for ends in _set(ranges) for part in theirs.within(*ends)]


def count(ranges: Iterable[SeqRange]) -> int:
    """How many numbers a set has."""
    return sum(last - first + 1 for first, last in ranges)


def from_multirange(ranges: Multirange[int] | None) -> list[SeqRange]:
    """PostgreSQL's int8multirange, whose upper ends are not included."""
    return [(part.lower, part.upper - 1) for part in ranges or () if part.lower is not None and part.upper is not None]


def _set(ranges: Iterable[SeqRange]) -> Ranges:
    # Sorted, each goes to the end: a hundred thousand of them cost no more than the sorting.
    return Ranges(sorted(part for part in ranges if part[0] <= part[1]))
