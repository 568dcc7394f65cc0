"""Sets of numbers as ranges, compared with Python's own sets."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_worker import seq_ranges

ranges = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=8)


def numbers(some):
    return {number for first, last in some for number in range(first, last + 1)}


def is_set(some):
    return all(first <= last for first, last in some) and all(before[1] + 1 < after[0] for before, after in pairwise(some))


@settings(max_examples=200)
@given(ranges, ranges)
def test_they_behave_as_sets(ours, theirs):
    cases = {
        "join": (seq_ranges.join([*ours, *theirs]), numbers(ours) | numbers(theirs)),
        "subtract": (seq_ranges.subtract(ours, theirs), numbers(ours) - numbers(theirs)),
        "intersect": (seq_ranges.intersect(ours, theirs), numbers(ours) & numbers(theirs)),
    }

    for name, (found, expected) in cases.items():
        assert numbers(found) == expected, name
        assert is_set(found), name
        assert seq_ranges.count(found) == len(expected), name
