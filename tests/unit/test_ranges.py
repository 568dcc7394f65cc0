"""Sets of numbers as ranges, against Python's own sets."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from penstock_schemas.ranges import Ranges

PARTS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 8)).map(lambda part: (part[0], part[0] + part[1])))


def numbers(parts: object) -> set[int]:
    return {number for first, last in parts for number in range(first, last + 1)}  # type: ignore[attr-defined]


@given(PARTS, st.integers(0, 45), st.integers(0, 10))
def test_ranges_are_a_set(parts, first, length):
    last = first + length
    ranges, looked_at = Ranges(parts), set(range(first, last + 1))

    held = numbers(parts)
    assert numbers(ranges) == held
    assert {number for number in range(60) if number in ranges} == held
    assert numbers(ranges.within(first, last)) == held & looked_at
    assert numbers(ranges.gaps(first, last)) == looked_at - held
    assert ranges.covers(first, last) == (looked_at <= held)
    # As few as possible: sorted, with room between any two.
    spans = list(ranges)
    assert all(before[1] + 1 < after[0] for before, after in pairwise(spans))
    assert len(ranges) == len(spans)


def test_the_lowest_can_be_forgotten():
    ranges = Ranges([(0, 1), (5, 6), (9, 9)])
    ranges.forget_lowest(2)
    assert list(ranges) == [(9, 9)]
