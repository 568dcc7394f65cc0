"""The bounded buffer: numbers, triggers, policies, drops and their ranges."""

from __future__ import annotations

import math
import threading

import pytest

from penstock_producers import BufferFull, ProducerClosed
from penstock_producers.drops import Drops as DropCounter
from penstock_schemas.wire import DroppedRange, new_epoch
from tests.producing import Clock, Drops, eventually, make_buffer, numbers

EVENT = b"x" * 100


def test_an_event_lingers_and_then_is_due() -> None:
    clock = Clock()
    buffer = make_buffer(clock, linger_s=0.05)
    assert buffer.due_in_s() == math.inf
    buffer.accept(EVENT)
    clock.now += 0.02
    buffer.accept(EVENT)
    assert buffer.due_in_s() == pytest.approx(0.03)
    clock.now += 0.03
    assert buffer.due_in_s() == 0
    assert [numbers(envelope) for envelope in buffer.cut(32, 10_000)] == [[0, 1]]


@pytest.mark.parametrize(("batch_events", "batch_bytes"), [(3, 10_000), (100, 300)])
def test_a_full_batch_does_not_linger(batch_events: int, batch_bytes: int) -> None:
    buffer = make_buffer(batch_events=batch_events, batch_bytes=batch_bytes)
    buffer.accept_many([EVENT, EVENT])
    assert buffer.due_in_s() > 0
    buffer.accept(EVENT)
    assert buffer.due_in_s() == 0


def test_a_turn_takes_full_batches_and_leaves_the_rest_to_linger() -> None:
    buffer = make_buffer(batch_events=3)
    buffer.accept_many([EVENT] * 8)
    assert [numbers(envelope) for envelope in buffer.cut(32, 10_000)] == [[0, 1, 2], [3, 4, 5]]


def test_a_turn_is_bounded_by_envelopes_and_by_bytes() -> None:
    buffer = make_buffer(batch_events=1)
    buffer.accept_many([EVENT] * 8)
    assert len(buffer.cut(2, 10_000)) == 2
    for envelope in list(buffer.held.in_flight):
        buffer.confirm(envelope)
    assert len(buffer.cut(32, 300)) == 3


def test_an_event_larger_than_a_batch_travels_alone() -> None:
    buffer = make_buffer(batch_bytes=150)
    buffer.accept_many([EVENT, b"y" * 500, EVENT])
    buffer.begin_close()
    assert [numbers(envelope) for envelope in buffer.cut(32, 10_000)] == [[0], [1], [2]]


def test_drop_newest_keeps_what_it_has_and_counts_the_rest() -> None:
    drops = Drops()
    buffer = make_buffer(tell=drops, max_events=2)
    assert [buffer.accept(EVENT) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert (drops.told, buffer.drops.totals, buffer.held.count) == ([(1, "buffer_full")] * 3, {"buffer_full": 3}, 2)
    buffer.begin_close()
    (envelope,) = buffer.cut(32, 10_000)
    assert (numbers(envelope), envelope.dropped) == ([0, 1], [DroppedRange(2, 4, "buffer_full")])


def test_drop_oldest_keeps_the_newest() -> None:
    drops = Drops()
    buffer = make_buffer(tell=drops, policy="drop_oldest", max_events=2)
    for _ in range(5):
        buffer.accept(EVENT)
    buffer.begin_close()
    (envelope,) = buffer.cut(32, 10_000)
    assert (numbers(envelope), envelope.dropped) == ([3, 4], [DroppedRange(0, 2, "buffer_full")])
    assert drops.told == [(1, "buffer_full")] * 3


def test_drop_oldest_makes_room_in_bytes_by_dropping_several() -> None:
    drops = Drops()
    buffer = make_buffer(tell=drops, policy="drop_oldest", max_bytes=300)
    buffer.accept_many([EVENT] * 3)
    buffer.accept(b"y" * 200)
    assert (drops.told, buffer.held.size) == ([(2, "buffer_full")], 300)


def test_drop_oldest_does_not_touch_what_is_in_flight() -> None:
    buffer = make_buffer(policy="drop_oldest", max_events=2, batch_events=2)
    buffer.accept_many([EVENT, EVENT])
    (in_flight,) = buffer.cut(32, 10_000)
    buffer.accept(EVENT)
    assert (numbers(in_flight), buffer.held.in_flight, buffer.held.count) == ([0, 1], [in_flight], 2)
    assert buffer.drops.take(9) == [DroppedRange(2, 2, "buffer_full")]


def test_raise_gives_no_number() -> None:
    buffer = make_buffer(policy="raise", max_events=1)
    buffer.accept(EVENT)
    with pytest.raises(BufferFull, match=r"1 events \(100 bytes\) wait"):
        buffer.accept(EVENT)
    assert (buffer.next_seq, buffer.drops.totals) == (1, {})


def test_raise_takes_many_all_or_none() -> None:
    buffer = make_buffer(policy="raise", max_events=3)
    buffer.accept(EVENT)
    with pytest.raises(BufferFull):
        buffer.accept_many([EVENT] * 3)
    assert buffer.accept_many([EVENT] * 2) == [1, 2]


def test_block_waits_for_room() -> None:
    buffer = make_buffer(policy="block", max_events=1, batch_events=1)
    buffer.accept(EVENT)
    accepted: list[int] = []
    thread = threading.Thread(target=lambda: accepted.append(buffer.accept(EVENT)))
    thread.start()
    (envelope,) = buffer.cut(32, 10_000)
    assert accepted == []
    buffer.confirm(envelope)
    thread.join(60)
    assert accepted == [1]


def test_block_may_have_a_limit() -> None:
    buffer = make_buffer(policy="block", max_events=1, block_timeout_s=0.01)
    buffer.accept(EVENT)
    with pytest.raises(BufferFull):
        buffer.accept(EVENT)
    assert buffer.next_seq == 1


def test_a_blocked_publisher_is_freed_by_close() -> None:
    buffer = make_buffer(policy="block", max_events=1)
    buffer.accept(EVENT)
    errors: list[BaseException] = []

    def publish() -> None:
        try:
            buffer.accept(EVENT)
        except ProducerClosed as exc:
            errors.append(exc)

    thread = threading.Thread(target=publish)
    thread.start()
    buffer.begin_close()
    thread.join(60)
    assert len(errors) == 1


def test_the_bound_counts_what_is_in_flight() -> None:
    buffer = make_buffer(max_events=2, batch_events=1)
    buffer.accept_many([EVENT, EVENT])
    first, _ = buffer.cut(32, 10_000)
    buffer.accept(EVENT)
    assert buffer.drops.totals == {"buffer_full": 1}
    buffer.confirm(first)
    assert (buffer.accept(EVENT), buffer.drops.totals) == (3, {"buffer_full": 1})


def test_one_event_over_the_bytes_fits_an_empty_buffer_only() -> None:
    buffer = make_buffer(max_bytes=50)
    buffer.accept(EVENT)
    buffer.accept(b"y")
    assert (buffer.held.count, buffer.drops.totals) == (1, {"buffer_full": 1})


def test_an_envelope_ends_where_a_number_is_missing() -> None:
    buffer = make_buffer(max_bytes=250)
    buffer.accept_many([EVENT, EVENT, b"too large for now" * 10, b"fits"])
    buffer.begin_close()
    first, second = buffer.cut(32, 10_000)
    assert (numbers(first), first.dropped) == ([0, 1], [DroppedRange(2, 2, "buffer_full")])
    assert (numbers(second), second.events, second.dropped) == ([3], [b"fits"], ())


def test_dropped_ranges_merge_by_reason_and_come_in_order() -> None:
    drops = DropCounter()
    for seq, reason in [(5, "a"), (6, "a"), (0, "b"), (1, "b"), (7, "b"), (2, "b"), (8, "a")]:
        drops.add(seq, reason)
    assert drops.take(3) == [DroppedRange(0, 2, "b"), DroppedRange(5, 6, "a"), DroppedRange(7, 7, "b")]
    assert drops.take(3) == [DroppedRange(8, 8, "a")]
    assert (bool(drops), drops.totals) == (False, {"a": 3, "b": 4})


def test_flush_is_due_at_once_and_ends_with_the_last_confirm() -> None:
    buffer = make_buffer(linger_s=1_000)
    buffer.accept_many([EVENT, EVENT])
    assert buffer.flush(0) is False
    assert buffer.due_in_s() == 0
    (envelope,) = buffer.cut(32, 10_000)
    flushed: list[bool] = []
    thread = threading.Thread(target=lambda: flushed.append(buffer.flush(60)))
    thread.start()
    # It waits for what was accepted before it: an event that is faster than its thread would be among that.
    eventually(lambda: buffer.progress._waiters)
    buffer.accept(EVENT)
    buffer.confirm(envelope)
    thread.join(60)
    assert (flushed, buffer.held.count) == ([True], 1)


def test_heartbeat_once_after_silence() -> None:
    clock = Clock()
    buffer = make_buffer(clock, batch_events=2, heartbeat_s=30)
    buffer.accept_many([EVENT, EVENT])
    clock.now += 1
    buffer.confirm(buffer.cut(32, 10_000)[0])
    assert buffer.due_in_s() == 30
    clock.now += 30
    (heartbeat,) = buffer.cut(32, 10_000)
    assert (heartbeat.seq, heartbeat.events, heartbeat.is_closed) == (2, (), False)
    buffer.confirm(heartbeat)
    assert buffer.due_in_s() == math.inf


def test_closing_sends_the_rest_then_says_that_it_was_the_last() -> None:
    buffer = make_buffer(linger_s=1_000)
    buffer.accept(EVENT)
    buffer.begin_close()
    with pytest.raises(ProducerClosed):
        buffer.accept(EVENT)
    (rest,) = buffer.cut(32, 10_000)
    buffer.confirm(rest)
    (last,) = buffer.cut(32, 10_000)
    assert (numbers(rest), rest.is_closed, last.seq, last.events, last.is_closed) == ([0], False, 1, (), True)
    buffer.confirm(last)
    assert buffer.cut(32, 10_000) == []


def test_closing_an_unused_buffer_says_nothing() -> None:
    buffer = make_buffer()
    buffer.begin_close()
    assert buffer.cut(32, 10_000) == []


def test_the_last_envelope_carries_the_remaining_drops() -> None:
    buffer = make_buffer(max_events=1, batch_events=1)
    buffer.accept(EVENT)
    (envelope,) = buffer.cut(32, 10_000)
    buffer.accept(EVENT)
    buffer.begin_close()
    buffer.confirm(envelope)
    (last,) = buffer.cut(32, 10_000)
    assert (last.seq, last.dropped, last.is_closed) == (2, [DroppedRange(1, 1, "buffer_full")], True)


def test_more_dropped_ranges_than_an_envelope_takes_need_several() -> None:
    buffer = make_buffer()
    buffer.next_seq = 2_000
    for seq in range(0, 1_202, 2):
        buffer.drops.add(seq, "buffer_full")
    buffer.begin_close()
    (first,) = buffer.cut(32, 10_000)
    buffer.confirm(first)
    (last,) = buffer.cut(32, 10_000)
    assert [(len(e.dropped), e.is_closed) for e in (first, last)] == [(500, False), (101, True)]
    assert len(first.body()) < 64 * 1024


def test_what_is_abandoned_is_counted_and_a_late_confirm_changes_nothing() -> None:
    drops = Drops()
    buffer = make_buffer(tell=drops, batch_events=1)
    buffer.accept_many([EVENT] * 3)
    envelopes = buffer.cut(2, 10_000)
    assert buffer.abandon() == 3
    buffer.confirm(envelopes[0])
    assert (drops.told, buffer.held.count, buffer.held.size, buffer.confirmed) == ([(3, "close_deadline")], 0, 0, 0)


def test_what_is_abandoned_and_refused_is_counted_once() -> None:
    drops = Drops()
    buffer = make_buffer(tell=drops)
    buffer.accept(EVENT)
    buffer.flush(0)
    (envelope,) = buffer.cut(32, 10_000)
    assert buffer.abandon() == 1
    buffer.refuse(envelope)
    assert (drops.told, buffer.drops.totals) == ([(1, "close_deadline")], {"close_deadline": 1})


def test_what_is_refused_comes_in_smaller_envelopes_in_order() -> None:
    buffer = make_buffer()
    buffer.accept_many([EVENT] * 4)
    buffer.flush(0)
    (envelope,) = buffer.cut(32, 10_000)
    buffer.accept_many([EVENT] * 2)
    buffer.refuse(envelope)
    assert (buffer.held.count, buffer.held.size, buffer.first_held()) == (6, 600, 0)
    assert [numbers(smaller) for smaller in buffer.cut(32, 10_000)] == [[0, 1], [2, 3], [4, 5]]


def test_the_age_is_that_of_the_oldest_event_held() -> None:
    clock = Clock()
    buffer = make_buffer(clock, batch_events=1, late_after_s=60)
    buffer.accept(EVENT)
    clock.now += 5
    buffer.accept(EVENT)
    first, second = buffer.cut(32, 10_000)
    assert (buffer.held.oldest_at, buffer.held.late_at) == (1_000, 1_060)
    clock.now += 5
    buffer.accept(EVENT)
    buffer.confirm(first)
    buffer.confirm(second)
    assert (buffer.held.oldest_at, buffer.held.late_at) == (1_010, 1_070)
    (third,) = buffer.cut(32, 10_000)
    buffer.confirm(third)
    assert buffer.held.late_at == math.inf


def test_numbers_have_no_gaps_under_threads() -> None:
    buffer = make_buffer(max_events=50)
    given: list[int] = []
    threads = [threading.Thread(target=lambda: given.extend(buffer.accept(EVENT) for _ in range(250))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(given) == list(range(2_000))
    assert buffer.held.count + buffer.drops.totals["buffer_full"] == 2_000


def test_a_callback_may_publish_from_another_thread() -> None:
    """`on_drop` is never called under the lock."""
    inner: list[int] = []

    def tell(_count: int, _reason: str) -> None:
        if not inner:
            inner.append(-1)
            thread = threading.Thread(target=lambda: inner.append(buffer.accept(EVENT)))
            thread.start()
            thread.join(60)

    buffer = make_buffer(tell=tell, max_events=1)
    assert buffer.accept_many([EVENT, EVENT]) == [0, 1]
    eventually(lambda: inner == [-1, 2])


def test_questions_about_one_epoch_become_one_and_none_is_left_out() -> None:
    """A journal's would be lost for as long as somebody waits for a receipt, and with it what the broker has lost."""
    buffer = make_buffer()
    other = new_epoch()
    buffer.ask(buffer.epoch, [(1, 100)])
    buffer.ask(other, [(0, 4)])
    buffer.ask(buffer.epoch, [(7, 7), (200, 200)])
    asked = []
    for _ in range(2):
        (envelope,) = buffer.cut(32, 10_000)
        asked.append((envelope.epoch, tuple(envelope.query)))
        buffer.confirm(envelope)
    assert asked == [(other, ((0, 4),)), (buffer.epoch, ((1, 100), (200, 200)))]
    assert buffer.due_in_s() == math.inf
