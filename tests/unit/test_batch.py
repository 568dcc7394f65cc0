"""How deliveries become batches, and suspects ever smaller ones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock_worker.ingest.batch import Batch, Buffer, Limits, gather_suspects, halves
from penstock_worker.ingest.message import RawMessage
from penstock_worker.ingest.source import Delivery

LIMITS = Limits(events=10, size=100)


def delivery(tag: int, count: int = 1, size: int = 1, redeliveries: int = 0) -> Delivery:
    return Delivery(RawMessage(b"x" * size), tag, count, redeliveries)


def tags(batches: list[Batch]) -> list[list[int]]:
    return [[delivery.tag for delivery in batch.deliveries] for batch in batches]


def test_rows_fill_a_batch() -> None:
    buffer = Buffer(LIMITS)
    assert tags(buffer.add_all([delivery(n, count=4) for n in range(5)])) == [[0, 1, 2]]
    (rest,) = buffer.take("age")
    assert (tags([rest]), rest.trigger, rest.events, buffer.is_empty) == ([[3, 4]], "age", 8, True)


def test_bytes_fill_a_batch_before_it_bursts() -> None:
    buffer = Buffer(LIMITS)
    batches = buffer.add_all([delivery(0, size=60), delivery(1, size=60), delivery(2, size=40)])
    assert (tags(batches), [batch.trigger for batch in batches]) == ([[0], [1, 2]], ["bytes", "bytes"])


def test_a_message_above_the_limit_is_a_batch_alone() -> None:
    buffer = Buffer(LIMITS)
    assert tags(buffer.add_all([delivery(0), delivery(1, size=1_000), delivery(2)])) == [[0], [1]]
    assert (buffer.size, tags(buffer.take("age"))) == (1, [[2]])


def test_a_message_that_claims_no_events_counts_as_one() -> None:
    buffer = Buffer(LIMITS)
    assert tags(buffer.add_all([delivery(n, count=0) for n in range(11)])) == [list(range(10))]


def test_nothing_waits_nothing_comes() -> None:
    assert Buffer(LIMITS).take("age") == []


def test_suspects_never_join_the_others() -> None:
    buffer = Buffer(LIMITS)
    batches = buffer.add_all([delivery(0), delivery(1, redeliveries=1), delivery(2)])
    assert (tags(batches), batches[0].is_suspect) == ([[1]], True)
    assert tags(buffer.take("age")) == [[0, 2]]


def test_a_batch_whose_reader_died_is_halved_until_each_is_alone() -> None:
    batch = Batch([delivery(n) for n in range(5)], "rows")
    first, second = halves(batch)
    assert (tags([first, second]), first.is_suspect, first.is_alone) == ([[0, 1], [2, 3, 4]], True, False)
    (alone,) = halves(halves(first)[0])
    assert (tags([alone]), alone.is_alone) == ([[0]], True)


def test_the_more_often_suspects_came_back_the_smaller_their_company() -> None:
    suspects = [delivery(n, redeliveries=1 + n // 8) for n in range(16)]
    assert tags(gather_suspects(suspects, LIMITS)) == [[0, 1, 2, 3, 4], [5, 6, 7], [8, 9], [10, 11], [12, 13], [14, 15]]
    assert all(batch.is_alone for batch in gather_suspects([delivery(n, redeliveries=9) for n in range(3)], LIMITS))


def test_a_batch_is_shown_as_counts_and_not_as_bytes() -> None:
    batch = Batch([delivery(0, count=500, size=1_200_000), delivery(1, count=500, size=900_000)], "rows")
    assert str(batch) == "<1000 events in 2 messages, 2.1 MB>"


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 120), st.integers(0, 5)), max_size=60))
def test_every_delivery_is_in_one_batch_and_every_batch_within_bounds(shapes: list[tuple[int, int, int]]) -> None:
    deliveries = [delivery(n, count, size, times) for n, (count, size, times) in enumerate(shapes)]
    buffer = Buffer(LIMITS)
    batches = [batch for one in deliveries for batch in buffer.add_all([one])] + buffer.take("age")
    assert sorted(tag for batch in tags(batches) for tag in batch) == list(range(len(deliveries)))
    for batch in batches:
        without_last = batch.deliveries[:-1]
        assert sum(max(1, one.count) for one in without_last) < LIMITS.events
        assert batch.size <= LIMITS.size or len(batch.deliveries) == 1
        assert {one.redeliveries > 0 for one in batch.deliveries} == {batch.is_suspect}
    fresh = [tag for batch in batches if not batch.is_suspect for tag in (one.tag for one in batch.deliveries)]
    assert fresh == sorted(fresh)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 120)), min_size=1, max_size=60))
def test_halving_reaches_every_message_alone(shapes: list[tuple[int, int]]) -> None:
    batches = [Batch([delivery(n, count, size) for n, (count, size) in enumerate(shapes)], "rows")]
    steps = 0
    while not all(batch.is_alone for batch in batches):
        batches = [half for batch in batches for half in (halves(batch) if not batch.is_alone else [batch])]
        steps += 1
    assert (tags(batches), steps <= 7) == ([[n] for n in range(len(shapes))], True)
