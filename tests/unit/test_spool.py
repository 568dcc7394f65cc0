"""Durability "spill" and the spool around it, over the in-memory broker; processes are forks that kill themselves."""

from __future__ import annotations

import gc
import logging
import resource
import threading
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from penstock_producers import BufferFull, Producer, TransportError
from penstock_producers import moves as moves_module
from penstock_producers.buffer import Buffer
from penstock_producers.moves import Moves
from penstock_producers.spool import folder
from penstock_producers.spool import spool as spool_module
from penstock_producers.spool.drain import drain
from penstock_producers.spool.file import SpoolFile, SpoolRefused
from penstock_producers.spool.folder import Lock
from penstock_producers.spool.listing import list_spools
from penstock_producers.spool.spool import Spool
from penstock_producers.spool.stock import Stock
from penstock_producers.testing import MemoryTransport
from penstock_schemas.wire import QUEUE, DroppedRange, Envelope, new_epoch
from tests.producing import (
    Drops,
    NarrowTransport,
    ScriptedBroker,
    ScriptedTransport,
    eventually,
    in_child,
    make_buffer,
    make_sender,
    numbers,
    options,
)
from tests.records import Pair
from tests.spooling import away_producer, files, killed, memory_producer, pairs, spooled

# Python 3.12 warns at every fork under threads; that it is safe is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

PAIR = Pair(tenant="a", number=1)
FILE_IN_USE = ["lock", "spool", "spool-shm", "spool-wal"]


def seqs(transport: MemoryTransport) -> list[int]:
    return sorted(event.seq for event in transport.events())


def spill_and_die(count: int, **options: Any) -> None:
    """A producer that spools what it published, and is killed."""

    def work() -> None:
        producer = away_producer(**options)
        producer.publish_many(pairs(count))
        eventually(spooled(producer, count))

    killed(work)


def make_spool() -> tuple[Spool, list[Any]]:
    """One without a producer, and the ranges that it gives up."""
    lost: list[Any] = []
    spool = Spool(options(durability="spill"), new_epoch(), "redis://unused", wake=lambda: None, lose=lost.append)
    return spool, lost


def test_without_trouble_there_is_no_file(spool_folder: Path) -> None:
    transport = MemoryTransport()
    with memory_producer(transport) as producer:
        producer.publish_many(pairs(100))
        assert producer.flush(60)
    assert (seqs(transport), files(spool_folder)) == (list(range(100)), [])


def test_a_broker_that_is_away_empties_memory_onto_the_disk_and_gets_all_when_it_is_back(spool_folder: Path) -> None:
    transport = MemoryTransport()
    transport.is_away = True
    with memory_producer(transport, retry_max_s=0.05) as producer:
        producer.publish_many(pairs(3_000))
        eventually(spooled(producer, 3_000))
        status = producer.status()
        assert (status.pending_writes, status.pending_bytes, status.is_synced, status.dropped) == (3_000, 0, False, {})
        assert (status.breaker in ("open", "half_open"), status.oldest_age_s > 0) == (True, True)
        assert status.next_sync_time is not None
        assert files(spool_folder) == ["lock", "spool", "spool-shm", "spool-wal"]
        transport.is_away = False
        assert producer.flush(60)
        status = producer.status()
        assert (status.confirmed, status.pending_writes, status.spooled, status.breaker) == (3_000, 0, 0, "closed")
        assert (status.is_synced, status.next_sync_time, status.oldest_age_s) == (True, None, 0.0)
        assert status.sync_latency_s is not None
        assert status.last_sync_time is not None
        producer.publish(PAIR)
        assert producer.flush(60)
    assert seqs(transport) == list(range(3_001))
    assert (transport.envelopes[-1].is_closed, transport.envelopes[-1].seq) == (True, 3_001)
    assert files(spool_folder) == []


def test_a_broker_that_hangs_loses_nothing_either() -> None:
    """The sender hangs in the broker: it is another thread that writes; what is in flight is written too."""
    release = threading.Event()

    class Hanging(ScriptedTransport):
        def send(self, envelopes: Any, on_confirmed: Any) -> None:
            release.wait(120)
            super().send(envelopes, on_confirmed)

    transport = Hanging()
    producer = Producer("redis://unused", name="shop", linger_s=0, broker=ScriptedBroker(transport))
    producer.publish_many(pairs(700))
    eventually(spooled(producer, 700))
    assert producer.status().breaker == "closed"
    release.set()
    assert producer.flush(60)
    # What was in flight was confirmed late: by that its rows are gone, and it is sent once.
    sent = [seq for envelope in transport.confirmed for seq in range(envelope.seq, envelope.seq + len(envelope.events))]
    assert sorted(sent) == list(range(700))
    assert producer.status().confirmed == 700
    producer.close()


def test_a_full_memory_goes_to_disk_and_not_to_the_policy() -> None:
    transport = MemoryTransport()
    transport.is_away = True
    with memory_producer(transport, max_events=100, policy="raise", retry_min_s=1_000, retry_max_s=1_000) as producer:
        producer.publish_many(pairs(90))
        eventually(lambda: producer.status().failures)
        for record in pairs(5_000):
            producer.publish(record)
        producer.publish_many(pairs(80))
        status = producer.status()
        assert (status.pending_writes, status.dropped) == (5_170, {})
        assert status.spooled >= 5_070
        transport.is_away = False
        assert producer.sync(60)
    assert seqs(transport) == list(range(5_170))


def test_a_killed_producers_events_are_sent_by_the_next_under_their_own_name(spool_folder: Path) -> None:
    spill_and_die(2_500, name="killed")
    (seen,) = list_spools(spool_folder)
    assert (seen.state, seen.producer, seen.durability, seen.events) == ("orphan", "killed", "spill", 2_500)
    transport = MemoryTransport()
    with memory_producer(transport, name="next") as producer:
        producer.publish(PAIR)
        eventually(lambda: len(transport.events()) == 2_501)
        assert producer.sync(60)
        assert producer.status().adopted == 2_500
    adopted = [envelope for envelope in transport.envelopes if envelope.producer == "killed"]
    assert {str(envelope.epoch) for envelope in adopted} == {seen.epoch}
    assert sorted(seq for e in adopted for seq in range(e.seq, e.seq + len(e.events))) == list(range(2_500))
    # Its memory may have held more: nobody says that there was an end.
    assert [envelope for envelope in adopted if envelope.is_closed] == []
    assert files(spool_folder) == []


def test_when_the_exit_deadline_passes_the_next_process_sends_and_tells_the_end(spool_folder: Path) -> None:
    def work() -> list[Any]:
        producer = away_producer(name="first", retry_min_s=1_000, retry_max_s=1_000, spool_folder=spool_folder)
        producer.publish_many(pairs(1_200))
        return [producer.close(0.05), producer.status().dropped, producer.status().is_closed]

    assert in_child(work) == [False, {}, True]
    transport = MemoryTransport()
    with memory_producer(transport, spool_folder=spool_folder) as producer:
        assert producer.sync(60)
    assert seqs(transport) == list(range(1_200))
    assert [(e.producer, e.seq) for e in transport.envelopes if e.is_closed] == [("first", 1_200)]
    assert files(spool_folder) == []


def test_a_producer_that_nobody_holds_any_more_ends_after_its_deadline_and_leaves_all_to_the_next(spool_folder: Path) -> None:
    producer = away_producer(exit_deadline_s=0.1, retry_max_s=0.01)
    producer.publish_many(pairs(200))
    sender = producer._outbox.sender
    del producer
    gc.collect()
    assert sender.is_done.wait(60)
    eventually(lambda: [seen.state for seen in list_spools(spool_folder)] == ["orphan"])
    transport = MemoryTransport()
    with memory_producer(transport) as successor:
        assert successor.sync(60)
    assert seqs(transport) == list(range(200))
    assert transport.envelopes[-1].is_closed


@pytest.mark.parametrize("held", [0, 1])
def test_the_end_is_told_of_a_file_that_has_all(held: int, spool_folder: Path) -> None:
    """The sender of a producer that was left ends while another thread has something, to move it."""
    producer = away_producer()
    outbox = producer._outbox
    outbox.buffer.accept(b"{}")
    assert outbox.buffer.move_to_spool()
    for _ in range(held):
        outbox.buffer.accept(b"{}")
    outbox.sender.is_done.set()
    outbox._end()
    (seen,) = list_spools(spool_folder)
    file = SpoolFile.look(seen.path)
    assert file.meta().get("next_seq") == (1 if held == 0 else None)
    file.close()


def test_the_end_of_a_process_spools_what_its_producers_hold(spool_folder: Path) -> None:
    def work() -> str:
        from penstock_producers import processes

        producer = away_producer(exit_deadline_s=0.05)
        producer.publish_many(pairs(10))
        processes._close_all()
        return "done"

    assert in_child(work) == "done"
    assert [(seen.state, seen.events) for seen in list_spools(spool_folder)] == [("orphan", 10)]


def test_two_that_start_at_once_adopt_a_file_once() -> None:
    for _ in range(3):
        spill_and_die(200)
    transports = [MemoryTransport(), MemoryTransport()]
    producers = [memory_producer(transport) for transport in transports]
    threads = [threading.Thread(target=producer.sync, args=(60,)) for producer in producers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(producer.status().adopted for producer in producers) == 600
    events = [(event.event_id) for transport in transports for event in transport.events()]
    assert (len(events), len(set(events))) == (600, 600)
    for producer in producers:
        producer.close()


def test_adopting_a_large_file_holds_up_neither_spilling_nor_sending(monkeypatch: pytest.MonkeyPatch) -> None:
    spill_and_die(5)
    is_found, is_read = threading.Event(), threading.Event()
    adopt = Stock.adopt

    def read_slowly(*given: Any) -> Stock:
        is_found.set()
        assert is_read.wait(120)
        return adopt(*given)

    monkeypatch.setattr(Stock, "adopt", read_slowly)
    transport = MemoryTransport()
    transport.is_away = True
    with memory_producer(transport) as producer:
        try:
            producer.publish_many(pairs(3))
            assert is_found.wait(60)
            eventually(lambda: producer.status().spooled == 3)
            transport.is_away = False
            assert not producer.sync(0.5)  # not without what is being adopted
            assert producer.flush(60)
            assert producer.status().adopted == 0
        finally:
            is_read.set()
        assert producer.sync(60)
        assert (producer.status().adopted, len(transport.events())) == (5, 8)


@pytest.mark.parametrize(("batch_events", "most"), [(2, 2), (500, 20)])
def test_what_is_risked_of_the_spool_while_the_broker_is_away_is_no_more_than_a_batch(batch_events: int, most: int) -> None:
    transport = ScriptedTransport(*[TransportError("away")] * 5)
    buffer = make_buffer(durability="spill", batch_events=batch_events)
    spool = Spool(options(durability="spill"), buffer.epoch, "redis://unused", wake=buffer.wake, lose=buffer.lose)
    buffer.move_to(spool)
    sender = make_sender(buffer, transport, batch_events=batch_events)
    buffer.accept_many([b"x"] * 30)
    while buffer.move_to_spool():
        pass
    for _ in range(5):
        assert sender.run_once()
    assert [[len(envelope.events) for envelope in attempt] for attempt in transport.attempts[-2:]] == [[most], [most]]
    spool.close()


def refused_while_moving(count: int, monkeypatch: pytest.MonkeyPatch, *, is_full: bool = False) -> tuple[Buffer, Spool]:
    """A buffer of `count` events in one envelope; the broker refuses it for its size while the keeper copies it to disk."""
    buffer = make_buffer(durability="spill")
    spool = Spool(options(durability="spill"), buffer.epoch, "redis://unused", wake=buffer.wake, lose=buffer.lose)
    buffer.move_to(spool)
    buffer.accept_many([b"x" * 100] * count)
    buffer.flush(0)
    (envelope,) = buffer.cut(32, 10_000)
    append = SpoolFile.append

    def append_slowly(file: SpoolFile, rows: Any) -> None:
        if buffer.held.is_in_flight(envelope):
            buffer.refuse(envelope)
            if is_full:
                raise SpoolRefused("full")
        append(file, rows)

    monkeypatch.setattr(SpoolFile, "append", append_slowly)
    assert buffer.move_to_spool() == (not is_full)
    return buffer, spool


def test_what_is_refused_for_its_size_while_it_is_moved_is_sent_from_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer, spool = refused_while_moving(4, monkeypatch)
    assert not buffer.move_to_spool()
    spool.stocks.sweep()
    assert (buffer.held.count, buffer.held.size, buffer.confirmed, buffer.held.batch_bytes) == (0, 0, 0, 200)
    assert [numbers(envelope) for envelope in spool.take(4, 10, buffer.held.batch_bytes, None)] == [[0, 1], [2, 3]]
    assert not buffer.drops.totals
    spool.close()


def test_when_the_disk_refuses_it_then_it_stays_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer, spool = refused_while_moving(4, monkeypatch, is_full=True)
    assert (buffer.held.count, buffer.held.size, spool.stocks.unsent) == (4, 400, 0)
    assert [numbers(envelope) for envelope in buffer.cut(32, 10_000)] == [[0, 1], [2, 3]]
    spool.close()


def test_an_event_that_is_too_large_alone_is_dropped_once_though_it_was_being_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer, spool = refused_while_moving(1, monkeypatch)
    (envelope,) = spool.take(4, 10, 1_000, None)
    buffer.refuse(envelope)
    spool.stocks.sweep()
    assert (buffer.drops.totals, spool.take(4, 10, 1_000, None), buffer.held.count) == ({"too_large": 1}, [], 0)
    spool.close()


def test_what_comes_to_disk_again_is_not_deleted_with_what_was_done_before() -> None:
    spool, lost = make_spool()
    assert spool.append([(0, b"{}"), (1, b"{}")], 0.0)
    (envelope,) = spool.take(1, 10, 1_000, None)
    spool.confirm(envelope)
    assert spool.append([(1, b"{}")], 0.0)
    spool.stocks.sweep()
    assert [numbers(again) for again in spool.take(2, 10, 1_000, None)] == [[1]]
    assert lost == []
    spool.close()


def test_rows_that_are_gone_count_as_dropped() -> None:
    spool, lost = make_spool()
    assert spool.append([(seq, b"{}") for seq in range(6)], 0.0)
    assert spool.stocks.own is not None
    assert spool.stocks.own.file is not None
    spool.stocks.own.file.delete([(0, 2), (5, 5)])
    assert spool.take(4, 10, 1_000, None) == []
    assert [numbers(envelope) for envelope in spool.take(4, 10, 1_000, None)] == [[3, 4]]
    assert (lost, spool.stocks.unsent, list(spool.stocks.own.rows)) == ([[(0, 2)], [(5, 5)]], 2, [(3, 4)])
    spool.close()


def test_what_is_still_being_read_at_the_deadline_is_left(spool_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "redis://127.0.0.1:1"
    place = spool_folder / folder.destination_of(folder.address_of(url, QUEUE))
    place.mkdir(parents=True)
    for count in (3, 5):
        file = SpoolFile.create(place / f"{new_epoch()}.spool", {"producer": "x"}, max_bytes=1 << 20, is_synced=False)
        file.append([(seq, b"{}") for seq in range(count)])
        file.close()
    is_found, is_read = threading.Event(), threading.Event()
    adopt, orphans, close = Stock.adopt, folder.orphans, Producer.close

    def read_slowly(epoch: UUID, file: SpoolFile, *given: Any) -> Stock:
        if file.count() == 5:
            is_found.set()
            assert is_read.wait(120)
        return adopt(epoch, file, *given)

    def first_only(place: Path) -> Any:
        monkeypatch.setattr(folder, "orphans", orphans)  # the second one dies a moment later
        yield next(orphans(place))

    def close_then(producer: Producer) -> bool:
        assert is_found.wait(60)
        return close(producer)

    monkeypatch.setattr(Stock, "adopt", read_slowly)
    monkeypatch.setattr(folder, "orphans", first_only)
    monkeypatch.setattr(Producer, "close", close_then)
    try:
        done = drain(url, None, 0.1)
    finally:
        is_read.set()
    assert (done.sent, done.left) == (0, 8)
    eventually(lambda: [seen.state for seen in list_spools(spool_folder)] == ["orphan", "orphan"])


LARGE = Pair(tenant="a", number=7, text="x" * 5_000)


@pytest.mark.parametrize("durability", ["spill", "journal", "memory"])
def test_an_event_that_the_broker_never_takes_is_dropped_and_holds_up_nothing(durability: Any) -> None:
    drops = Drops()
    transport = NarrowTransport(max_bytes=2_000)
    with memory_producer(transport, durability=durability, on_drop=drops, linger_s=0.05) as producer:
        receipts = producer.publish_many([*pairs(40), LARGE, *pairs(40)])
        assert producer.flush(60)
        assert receipts[40].wait(60) == "dropped"
        eventually(lambda: drops.told)  # by another thread, a moment later
        assert (drops.told, producer.status().dropped) == ([(1, "too_large")], {"too_large": 1})
        assert durability != "journal" or producer.await_receipts(60)
    assert seqs(transport) == [*range(40), *range(41, 81)]
    assert {part for envelope in transport.envelopes for part in envelope.dropped} == {DroppedRange(40, 40, "too_large")}


def test_neither_does_one_that_was_adopted(spool_folder: Path) -> None:
    def work() -> None:
        producer = away_producer(retry_min_s=1_000, retry_max_s=1_000)
        producer.publish_many([*pairs(40), LARGE, *pairs(40)])
        eventually(spooled(producer, 81))

    killed(work)
    drops = Drops()
    transport = NarrowTransport(max_bytes=2_000)
    with memory_producer(transport, on_drop=drops) as producer:
        assert producer.sync(60)
        eventually(lambda: drops.told)  # by another thread, a moment later
        assert (drops.told, producer.status().dropped) == ([(1, "too_large")], {"too_large": 1})
        eventually(lambda: files(spool_folder) == [])
    assert seqs(transport) == [*range(40), *range(41, 81)]
    (told,) = [envelope for envelope in transport.envelopes if envelope.dropped]
    assert (told.epoch, told.seq, told.is_closed) == (transport.envelopes[0].epoch, 41, False)
    assert told.dropped == [DroppedRange(40, 40, "too_large")]


@pytest.mark.parametrize("durability", ["spill", "journal"])
def test_a_drop_that_its_adopter_could_not_tell_is_told_by_the_next(durability: Any, spool_folder: Path) -> None:
    def work() -> None:
        producer = away_producer(durability=durability, retry_min_s=1_000, retry_max_s=1_000)
        producer.publish_many([*pairs(2), LARGE])
        eventually(lambda: durability == "journal" or spooled(producer, 3)())

    class Silenced(NarrowTransport):
        """The broker goes away after it has refused the event, and before it is told so."""

        def send(self, envelopes: Any, on_confirmed: Any) -> None:
            if not all(envelope.events for envelope in envelopes):
                raise TransportError("away")
            super().send(envelopes, on_confirmed)

    killed(work)
    with memory_producer(Silenced(max_bytes=2_000)) as producer:
        assert not producer.sync(0)
        eventually(
            lambda: producer.status().dropped == {"too_large": 1} and not producer.sync(0) and producer.status().failures
        )
        producer.close(0)
    # Given back by a thread that outlives a close without time, a moment later.
    eventually(lambda: [seen.state for seen in list_spools(spool_folder)] == ["orphan"])
    transport = NarrowTransport(max_bytes=2_000)
    with memory_producer(transport) as producer:
        assert producer.sync(60)
        assert durability == "spill" or producer.await_receipts(60)
    (told,) = [envelope for envelope in transport.envelopes if envelope.dropped]
    assert (told.seq, told.is_closed, told.dropped) == (3, durability == "journal", [DroppedRange(2, 2, "too_large")])
    assert (LARGE.number in [event.data["number"] for event in transport.events()], files(spool_folder)) == (False, [])


def test_drops_of_an_adopted_file_are_joined_and_told_some_at_a_time(tmp_path: Path) -> None:
    spool, _ = make_spool()
    path = tmp_path / f"{new_epoch()}.spool"
    file = SpoolFile.create(path, {"producer": "x"}, max_bytes=1 << 20, is_synced=False)
    file.append([(seq, b"{}") for seq in range(1_800)])
    lock = Lock.take(path)
    assert lock is not None
    stock = Stock.adopt(UUID(path.stem), file, lock, time.monotonic)
    spool.stocks.adopt(stock)
    for seq in [*reversed(range(600)), *range(600, 1_800, 2)]:  # the sender puts back what is refused from its end
        spool.drop(stock.epoch, seq, "too_large")
    for seq in range(601, 1_800, 2):
        spool.confirm(Envelope("x", stock.epoch, seq, [b"{}"]))
    told = []
    while stock.has_something:
        (envelope,) = spool.take(10, 10, 1_000, None)
        spool.confirm(envelope)
        told.append(envelope)
    assert [len(envelope.dropped) for envelope in told] == [500, 100]
    assert [part.first for envelope in told for part in envelope.dropped] == [0, *range(602, 1_800, 2)]
    assert (told[0].dropped[0], stock.is_needed) == (DroppedRange(0, 600, "too_large"), False)
    spool.close()


def test_rows_of_an_adopted_file_that_are_gone_are_told_as_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    spill_and_die(5)
    transport = MemoryTransport()
    read = SpoolFile.read

    def read_others(file: SpoolFile, first: int, last: int, limit_bytes: int) -> Any:
        return [row for row in read(file, first, last, limit_bytes) if row[0] != 3]

    monkeypatch.setattr(SpoolFile, "read", read_others)
    with memory_producer(transport) as producer:
        assert producer.sync(60)
    assert seqs(transport) == [0, 1, 2, 4]
    assert [list(envelope.dropped) for envelope in transport.envelopes if not envelope.events] == [
        [DroppedRange(3, 3, "spool_corrupt")]
    ]


def test_files_of_other_destinations_are_left_alone(spool_folder: Path) -> None:
    spill_and_die(5)
    transport = MemoryTransport()
    with memory_producer(transport, queue="other") as producer:
        assert producer.sync(60)
    assert ([seen.events for seen in list_spools(spool_folder)], transport.events()) == ([5], [])


def test_own_and_adopted_events_do_not_wait_for_each_other() -> None:
    for _ in range(2):
        spill_and_die(100)
    transport = MemoryTransport()
    transport.is_away = True
    producer = memory_producer(transport, batch_events=1, retry_min_s=1_000, retry_max_s=1_000)
    producer.publish_many(pairs(100))
    eventually(spooled(producer, 100))
    assert not producer.sync(0)
    transport.is_away = False
    assert producer.sync(60)
    epochs = [envelope.epoch for envelope in transport.envelopes if envelope.events]
    assert len(set(epochs[:10])) == 3
    producer.close()


def test_what_cannot_be_read_is_set_aside_and_holds_up_nothing(spool_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        spill_and_die(50)
    first, second, _ = list_spools(spool_folder)
    for seen in (first, second):
        # Else SQLite finds all of it in the log.
        seen.path.with_name(seen.path.name + "-wal").unlink()
    first.path.write_bytes(b"garbage" * 5_000)
    second.path.write_bytes(second.path.read_bytes()[:100])
    transport = MemoryTransport()
    with memory_producer(transport) as producer:
        assert producer.sync(60)
    assert len(transport.events()) == 50
    aside = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [f"{seen.path}.corrupt" in told for seen, told in zip((first, second), aside, strict=True)] == [True, True]
    assert [seen.state for seen in list_spools(spool_folder)] == ["corrupt", "corrupt"]


def test_a_full_spool_leaves_the_rest_to_the_policy_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    drops = Drops()
    transport = MemoryTransport()
    transport.is_away = True
    text = "x" * 1_000
    options: dict[str, Any] = {"max_events": 20, "spool_max_bytes": 200_000, "on_drop": drops}
    with memory_producer(transport, retry_min_s=1_000, retry_max_s=1_000, **options) as producer:
        for number in range(500):
            producer.publish(Pair(tenant="a", number=number, text=text))
        status = producer.status()
        assert status.pending_writes + status.dropped["buffer_full"] == 500
        assert 100 < status.spooled < 200
        assert sum(count for count, _ in drops.told) == status.dropped["buffer_full"]
        eventually(lambda: [record for record in caplog.records if "takes nothing" in record.getMessage()])
        transport.is_away = False
        assert producer.sync(60)
        # The disk has room again.
        assert producer.status().spooled == 0
    kept = seqs(transport)
    carried = [part for envelope in transport.envelopes for part in envelope.dropped]
    assert sorted([*kept, *(seq for part in carried for seq in range(part.first, part.last + 1))]) == list(range(500))
    assert len([record for record in caplog.records if "takes nothing" in record.getMessage()]) == 1


def test_a_refused_append_is_not_tried_at_every_event(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def refuse(*_: Any, **__: Any) -> None:
        tried.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool_module.folder, "prepare", refuse)
    with away_producer(max_events=10, durability="spill", exit_deadline_s=0) as producer:
        started = time.monotonic()
        for record in pairs(5_000):
            producer.publish(record)
        assert len(tried) <= 2 + time.monotonic() - started
        assert producer.status().dropped["buffer_full"] == 4_990


def test_policy_raise_is_asked_when_the_disk_refuses_too(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with away_producer(max_events=3, policy="raise", spool_folder=tmp_path / "file" / "no", exit_deadline_s=0) as producer:
        producer.publish_many(pairs(3))
        with pytest.raises(BufferFull):
            producer.publish(PAIR)
        with pytest.raises(BufferFull):
            producer.publish_many(pairs(2))
        assert producer.status().accepted == 3


def test_a_forked_child_leaves_its_parents_spool_alone() -> None:
    transport = MemoryTransport()
    transport.is_away = True
    with memory_producer(transport) as producer:
        producer.publish_many(pairs(300))
        eventually(spooled(producer, 300))

        def child() -> list[Any]:
            before = producer.status()
            producer.publish_many(pairs(40))
            eventually(spooled(producer, 40))
            gc.collect()
            return [before.accepted, before.spooled, producer.close(0)]

        for _ in range(3):
            assert in_child(child) == [0, 0, False]
        producer.publish_many(pairs(5))
        transport.is_away = False
        # The children's files are orphans by now: they are sent as well.
        assert producer.sync(60)
        assert producer.status().confirmed == 305
        assert producer.status().adopted == 120
    assert len(transport.events()) == 425


def test_room_that_another_thread_took_meanwhile_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds nothing to move, for another has moved it, and no room, for that one has filled it again, moves in turn."""
    with away_producer(max_events=5) as producer:
        move, moved = Moves.move, []

        def as_the_other(moves: Moves, patience_s: float | None = None) -> bool | None:
            if moved:
                return move(moves, patience_s)
            moved.append(move(moves, patience_s))
            for _ in range(5):
                producer.publish(PAIR)
            return None

        for _ in range(5):
            producer.publish(PAIR)
        monkeypatch.setattr(Moves, "move", as_the_other)
        producer.publish(PAIR)
        assert (moved, producer.status().dropped, producer.status().pending_writes) == ([True], {}, 11)


def test_forks_while_threads_spool_do_not_deadlock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves_module, "_PATIENCE_S", 60.0)  # however busy the disk is, nothing is dropped for that
    with away_producer(max_events=50, exit_deadline_s=0) as producer:
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                producer.publish(PAIR)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(5):
                assert in_child(lambda: [producer.publish_many(pairs(200))[-1].seq, producer.close(0)]) == [199, False]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        # While events are moving they count twice, for a moment. What a child left may have been adopted already.
        eventually(lambda: (status := producer.status()).pending_writes == status.accepted + status.adopted)
        assert producer.status().dropped == {}


def test_a_disk_that_is_full_in_the_middle_of_a_write_loses_nothing_that_was_kept() -> None:
    """A limit of the operating system, in place of a full file system: writes past it fail like those."""

    def work() -> list[Any]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
        transport = MemoryTransport()
        transport.is_away = True
        producer = memory_producer(transport, max_events=50)
        for number in range(1_500):
            producer.publish(Pair(tenant="a", number=number, text="x" * 1_000))
        status = producer.status()
        kept = status.accepted - status.dropped["buffer_full"]
        # Sent while the disk is still full: neither reading nor forgetting needs room.
        transport.is_away = False
        is_synced = producer.sync(60)
        arrived = {event.seq for event in transport.events()}
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        left = producer.status().spooled
        return [kept > 100, is_synced, len(arrived) == kept, left, producer.close(60)]

    assert in_child(work) == [True, True, True, 0, True]


def test_a_dead_keeper_is_replaced() -> None:
    producer = away_producer(retry_max_s=0.05)
    keeper = producer._outbox.keeper
    assert keeper is not None
    turns = iter([SystemExit("a thread that ends")])

    def fail_once() -> None:
        for error in turns:
            raise error

    keeper._on_turn = fail_once
    producer.publish_many(pairs(10))
    eventually(spooled(producer, 10))
    eventually(lambda: not keeper.is_running or next(turns, None) is None)
    producer.publish_many(pairs(10))
    eventually(spooled(producer, 20))
    producer.close(0)


def test_sync_does_not_wait_for_the_next_attempt() -> None:
    transport = MemoryTransport()
    transport.is_away = True
    with memory_producer(transport, retry_min_s=1_000, retry_max_s=1_000) as producer:
        producer.publish_many(pairs(10))
        eventually(lambda: producer.status().failures)
        assert not producer.sync(0.01)
        eventually(lambda: producer.status().failures > 1)
        transport.is_away = False
        assert producer.sync(60)
        assert producer.status().is_synced


def test_while_the_broker_is_away_one_message_is_risked() -> None:
    class Counting(MemoryTransport):
        def __init__(self) -> None:
            super().__init__()
            self.attempts: list[int] = []

        def send(self, envelopes: Any, on_confirmed: Any) -> None:
            self.attempts.append(len(envelopes))
            if len(self.attempts) < 8:
                raise TransportError("away")
            super().send(envelopes, on_confirmed)

    transport = Counting()
    with memory_producer(transport, batch_events=10) as producer:
        producer.publish_many(pairs(300))
        assert producer.flush(60)
    assert transport.attempts[3:8] == [1] * 5
    assert max(transport.attempts[8:]) > 1
    assert seqs(transport) == list(range(300))


def test_an_own_file_that_breaks_is_set_aside_and_counted(spool_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    drops = Drops()
    transport = MemoryTransport()
    transport.is_away = True
    with memory_producer(transport, on_drop=drops, retry_min_s=1_000, retry_max_s=1_000) as producer:
        producer.publish_many(pairs(300))
        eventually(spooled(producer, 300))
        (seen,) = list_spools(spool_folder)
        spool = producer._outbox.spool
        assert spool is not None
        assert spool.stocks.own is not None
        assert spool.stocks.own.file is not None
        spool.stocks.own.file._connection.execute("DROP TABLE events")
        transport.is_away = False
        assert producer.sync(60)
        eventually(lambda: drops.told)  # by another thread, a moment later
        status = producer.status()
        assert (drops.told, status.dropped, status.is_synced) == ([(300, "spool_corrupt")], {"spool_corrupt": 300}, True)
        producer.publish(PAIR)
        assert producer.flush(60)
    assert f"{seen.path}.corrupt" in caplog.text
    carried = [(part.first, part.last, part.reason) for envelope in transport.envelopes for part in envelope.dropped]
    assert carried == [(0, 299, "spool_corrupt")]
    assert seqs(transport) == [300]


def test_a_corruption_that_is_told_late_does_not_cost_the_healthy_file_that_came_after(spool_folder: Path) -> None:
    spool, lost = make_spool()
    assert spool.append([(0, b"{}")], 0.0)
    assert spool.stocks.own is not None
    assert spool.stocks.own.file is not None
    spool.stocks.own.file._connection.execute("DROP TABLE events")
    assert not spool.append([(1, b"{}")], 0.0)  # noted
    assert spool.take(1, 10, 1_000, None) == []  # met by another thread, which sets it aside
    spool.refused_until = 0
    assert spool.append([(1, b"{}")], 0.0)
    spool.tell()
    (envelope,) = spool.take(1, 10, 1_000, None)
    assert (lost, envelope.seq, files(spool_folder)) == ([[(0, 0)]], 1, [*FILE_IN_USE, "spool.corrupt"])
    spool.close()


def test_a_failed_read_is_told_as_such_and_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, _ = make_spool()
    assert spool.append([(0, b"{}")], 0.0)

    def refuse(*_: Any) -> Any:
        raise SpoolRefused("disk I/O error")

    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(SpoolFile, "read", refuse)
            for _ in range(3):
                assert spool.take(1, 10, 1_000, None) == []
                spool.tell()
        assert len(spool.take(1, 10, 1_000, None)) == 1
    assert [record.action for record in caplog.records] == ["spool_unread"] * 2  # type: ignore[attr-defined]
    assert "cannot be read now, its events stay there and it is tried again every second: disk I/O error" in caplog.messages[0]
    spool.close()


def test_who_adopts_a_closed_producers_file_tells_its_drops_too() -> None:
    def work() -> list[Any]:
        options: dict[str, Any] = {"max_events": 10, "spool_max_bytes": 100_000, "retry_min_s": 1_000, "retry_max_s": 1_000}
        producer = away_producer(**options)
        for number in range(200):
            producer.publish(Pair(tenant="a", number=number, text="x" * 1_000))
        while producer.status().pending_bytes:
            producer._outbox.spool.stocks.own.file._connection.execute("PRAGMA max_page_count = 1000")
            producer._outbox.spool.refused_until = 0
            time.sleep(0.01)
        return [producer.close(0), producer.status().dropped["buffer_full"]]

    is_sent, dropped = in_child(work)
    assert not is_sent
    transport = MemoryTransport()
    with memory_producer(transport) as producer:
        assert producer.sync(60)
    (end,) = [envelope for envelope in transport.envelopes if envelope.is_closed]
    told = [seq for part in end.dropped for seq in range(part.first, part.last + 1)]
    assert (end.seq, len(told)) == (200, dropped)
    assert sorted([*told, *seqs(transport)]) == list(range(200))


def test_drops_of_a_message_under_way_are_told_at_the_end_and_there_is_no_limit(spool_folder: Path) -> None:
    transport = MemoryTransport()
    transport.is_away = True
    producer = memory_producer(transport, retry_min_s=1_000, retry_max_s=1_000)
    producer.publish_many(pairs(2_000))
    eventually(spooled(producer, 2_000))
    buffer = producer._outbox.buffer
    with buffer.lock:
        for seq in range(2_000, 4_000, 2):
            buffer.drops.add(seq, "buffer_full")
        buffer.next_seq = 4_000
        buffer.held.in_flight.append(Envelope("shop", buffer.epoch, 4_000, (), buffer.drops.take(400)))
    assert not producer.close(0)
    transport.is_away = False
    with memory_producer(transport) as successor:
        assert successor.sync(60)
    told = [envelope for envelope in transport.envelopes if envelope.epoch == buffer.epoch and not envelope.events]
    assert [(len(envelope.dropped), envelope.is_closed, envelope.seq) for envelope in told] == [
        (500, False, 4_000),
        (500, True, 4_000),
    ]
    assert [part.first for envelope in told for part in envelope.dropped] == list(range(2_000, 4_000, 2))


def test_an_own_file_that_cannot_be_read_nor_set_aside_leaves_events_to_the_policy(
    spool_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module.folder, "orphans", lambda _: iter(()))  # nobody sets it aside
    producer = away_producer(max_events=100, retry_min_s=1_000, retry_max_s=1_000)
    spool = producer._outbox.spool
    assert spool is not None
    spool.folder.mkdir(parents=True)
    (spool.folder / f"{producer._outbox.epoch}.spool").write_bytes(b"garbage" * 5_000)
    for record in pairs(400):
        producer.publish(record)
    assert producer.status().dropped == {"buffer_full": 300}
    assert not producer.close(0)


def test_a_file_with_strange_facts_is_set_aside_and_the_next_is_adopted(spool_folder: Path) -> None:
    transport = MemoryTransport()
    with memory_producer(transport) as producer:
        spool = producer._outbox.spool
        assert spool is not None
        spool.folder.mkdir(parents=True)
        for facts in ({"dropped": "[1]", "next_seq": 3}, {"next_seq": 3}):
            path = spool.folder / f"{new_epoch()}.spool"
            file = SpoolFile.create(path, {"producer": "x", "journal": 0, **facts}, max_bytes=1 << 20, is_synced=False)
            file.append([(seq, b'{"type":"t","op":"upsert","version":1,"data":{}}') for seq in range(3)])
            file.close()
        assert producer.sync(60)
    assert (seqs(transport), files(spool_folder)) == ([0, 1, 2], ["spool.corrupt"])


def test_a_file_is_healthy_though_there_is_no_memory_to_adopt_it(
    spool_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        spill_and_die(3)
    ranges = SpoolFile.ranges

    def fail_once(file: SpoolFile) -> Any:
        monkeypatch.setattr(SpoolFile, "ranges", ranges)
        raise MemoryError

    monkeypatch.setattr(SpoolFile, "ranges", fail_once)
    transport = MemoryTransport()
    with memory_producer(transport) as producer:
        adopter = producer._outbox.adopter
        assert adopter is not None
        with caplog.at_level(logging.CRITICAL):
            assert (adopter.adopt(), [seen.state for seen in list_spools(spool_folder)]) == (1, ["orphan", "alive"])
        assert producer.sync(60)
    assert (len(transport.events()), files(spool_folder)) == (6, [])


def test_memory_alone_has_neither_folder_nor_keeper(spool_folder: Path) -> None:
    producer = away_producer(durability="memory")
    producer.publish_many(pairs(3))
    assert producer.close(0) is False
    assert producer.status().dropped == {"close_deadline": 3}
    assert not spool_folder.exists()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"durability": "disk"}, "durability 'disk': choose one of spill, journal, memory"),
        ({"durability": "memory", "fsync": True}, "fsync needs a durability with a disk"),
        ({"spool_max_bytes": 0}, "spool_max_bytes must be above 0"),
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Producer("redis://unused", **wrong)
