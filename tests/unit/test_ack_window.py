"""Which delivery tags may be acknowledged at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock_worker.ingest.amqp_source import AckWindow


def opened(count: int) -> AckWindow:
    window = AckWindow()
    for number in range(1, count + 1):
        window.deliver(number)
    return window


def test_finished_in_order_acknowledges_as_far_as_it_goes() -> None:
    window = opened(6)
    assert [window.finish([1, 2]), window.finish([3]), window.finish([4, 5, 6])] == [2, 3, 6]


def test_an_older_delivery_that_still_runs_holds_back_the_newer() -> None:
    window = opened(6)
    assert [window.finish([4, 5, 6]), window.finish([2, 3]), window.finish([1])] == [None, None, 6]


def test_a_rejected_tag_is_passed_over_and_never_named() -> None:
    window = opened(4)
    assert window.finish([3, 4], needs_ack=False) is None
    assert window.finish([1, 2]) == 2
    window.deliver(5)
    assert window.finish([5]) == 5


def test_only_rejected_tags_need_no_ack_at_all() -> None:
    window = opened(3)
    assert [window.finish([1, 2], needs_ack=False), window.finish([3], needs_ack=False)] == [None, None]


@given(st.lists(st.tuples(st.integers(1, 40), st.booleans()), unique_by=lambda pair: pair[0]), st.integers(0, 40))
def test_nothing_unfinished_is_acknowledged_and_nothing_rejected_named(ends: list[tuple[int, bool]], early: int) -> None:
    """Deliveries finish in any order, some before others have come; as on a channel, tags come in their order."""
    window = opened(early)
    delivered = set(range(1, early + 1))
    finished: set[int] = set()
    rejected: set[int] = set()
    acknowledged: set[int] = set()
    watermark = 0
    for number, needs_ack in ends:
        for later in range(max(delivered, default=0) + 1, number + 1):
            window.deliver(later)
            delivered.add(later)
        finished.add(number)
        if not needs_ack:
            rejected.add(number)
        named = window.finish([number], needs_ack=needs_ack)
        if named is not None:
            assert named > watermark
            assert named not in rejected
            assert finished >= set(range(1, named + 1))
            watermark = named
            acknowledged |= set(range(1, named + 1)) - rejected
    # What could be acknowledged has been: all that is finished and has nothing unfinished before it.
    reach = next((number for number in sorted(delivered) if number not in finished), max(delivered, default=0) + 1) - 1
    assert acknowledged == set(range(1, reach + 1)) - rejected
