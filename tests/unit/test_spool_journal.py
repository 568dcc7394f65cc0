"""Durability "journal": on disk before publish() returns, and there until the worker's receipt."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from penstock_producers import BufferFull, Producer, ProducerClosed
from penstock_producers.spool import stock as stock_module
from penstock_producers.spool.listing import list_spools
from penstock_producers.testing import MemoryProducer, MemoryTransport
from penstock_schemas.wire import Envelope
from tests.producing import Drops, eventually, in_child, publish_beside_handlers
from tests.records import Pair
from tests.spooling import away_producer, files, killed, memory_producer, pairs

# Python 3.12 warns at every fork under threads; that it is safe is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

PAIR = Pair(tenant="a", number=1)


def journal(transport: MemoryTransport, **options: Any) -> Producer:
    return memory_producer(transport, durability="journal", **options)


def events_on_disk(folder: Path) -> int:
    return sum(seen.events or 0 for seen in list_spools(folder))


def test_an_event_is_on_disk_when_publish_returns_and_until_its_receipt(spool_folder: Path) -> None:
    transport = MemoryTransport()
    transport.outcome = None  # nobody answers
    with journal(transport, linger_s=1_000) as producer:
        for number in range(5):
            producer.publish(PAIR)
            assert events_on_disk(spool_folder) == number + 1
        assert producer.publish_many(pairs(2_500))[-1].seq == 2_504
        assert producer.flush(60)
        status = producer.status()
        assert (status.confirmed, status.pending_writes, status.is_synced, status.unreceipted) == (2_505, 0, True, 2_505)
        assert events_on_disk(spool_folder) == 2_505
        transport.outcome = "dead"
        producer._outbox.receipts.settled(producer.status().epoch, "stored", 0, 2_503)
        assert producer.status().unreceipted == 1
        producer._outbox.receipts.settled(producer.status().epoch, "dead", 2_504, 2_504)
        assert producer.await_receipts(0)
    assert files(spool_folder) == []


def test_receipts_come_by_themselves(spool_folder: Path) -> None:
    transport = MemoryTransport()
    with journal(transport) as producer:
        producer.publish(PAIR)
        eventually(lambda: producer.status().unreceipted == 0)
        producer.publish_many(pairs(1_000))
        eventually(lambda: producer.status().unreceipted == 0)
    assert [event.seq for event in transport.events()] == list(range(1_001))
    assert files(spool_folder) == []


def test_an_event_that_memory_has_no_room_for_is_sent_from_disk() -> None:
    transport = MemoryTransport()
    transport.is_away = True
    with journal(transport, max_events=100, policy="raise", retry_max_s=0.05) as producer:
        for record in pairs(2_000):
            producer.publish(record)
        status = producer.status()
        assert (status.pending_writes, status.spooled, status.unreceipted, status.dropped) == (2_000, 1_900, 2_000, {})
        assert not status.is_synced
        transport.is_away = False
        assert producer.sync(60)
        eventually(lambda: producer.status().unreceipted == 0)
    assert sorted(event.seq for event in transport.events()) == list(range(2_000))


def test_what_the_broker_has_lost_is_sent_again() -> None:
    transport = MemoryTransport()
    transport.outcome = None
    with journal(transport) as producer:
        producer.publish_many(pairs(10))
        assert producer.flush(60)
        epoch = producer.status().epoch
        assert producer._outbox.receipts is not None
        producer._outbox.receipts.settled(epoch, "stored", 0, 3)
        transport.envelopes.clear()
        producer._outbox.receipts.unknown(epoch, 0, 7)
        eventually(lambda: [event.seq for event in transport.events()] == [4, 5, 6, 7])
        assert producer.flush(60)
        assert producer.status().unreceipted == 6
        producer._outbox.receipts.settled(epoch, "stored", 0, 9)


def test_what_is_confirmed_and_not_answered_is_asked_about_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock_module, "_RECEIPT_S", 0.0)
    transport = MemoryTransport()
    transport.outcome = None
    with journal(transport, exit_deadline_s=0) as producer:
        producer.publish_many(pairs(10))
        assert producer.flush(60)
        transport.is_away = True
        producer.publish_many(pairs(5))
        receipts, epoch = producer._outbox.receipts, producer.status().epoch
        assert receipts is not None
        time.sleep(0.001)  # the clock has gone on since the confirm
        assert receipts.overdue() == {epoch: [(0, 9)]}
        receipts.settled(epoch, "stored", 2, 4)
        assert receipts.overdue() == {epoch: [(0, 1), (5, 9)]}


def test_a_killed_journal_is_adopted_whole_and_its_end_is_told(spool_folder: Path) -> None:
    def work() -> None:
        producer = away_producer(durability="journal", name="killed", linger_s=1_000)
        for record in pairs(1_500):
            producer.publish(record)

    killed(work)
    transport = MemoryTransport()
    with memory_producer(transport, name="next") as producer:
        assert producer.sync(60)
        assert producer.await_receipts(60)
        assert producer.status().unreceipted == 0
    events = [envelope for envelope in transport.envelopes if envelope.producer == "killed"]
    assert sorted(seq for e in events for seq in range(e.seq, e.seq + len(e.events))) == list(range(1_500))
    assert [(e.seq, e.is_closed) for e in events if not e.events] == [(1_500, True)]
    assert files(spool_folder) == []


def test_what_a_killed_producer_knew_to_be_confirmed_is_asked_about_before_it_is_sent_again(spool_folder: Path) -> None:
    def work() -> None:
        transport = MemoryTransport()
        transport.outcome = None
        producer = journal(transport, name="killed")
        producer.publish_many(pairs(40))
        assert producer.flush(60)
        transport.is_away = True
        producer.publish_many(pairs(10))
        assert producer._outbox.receipts is not None
        producer._outbox.receipts.overdue()  # as every second: notes how far it is

    killed(work)

    class Ledger(MemoryTransport):
        """Answers questions only, and knows of the first thirty events."""

        def __init__(self) -> None:
            super().__init__()
            self.questions: list[Any] = []

        def _outcomes(self, envelope: Envelope, outcome: str) -> Any:
            self.questions += [envelope.query] if envelope.query else []
            for first, last in envelope.query:
                yield "stored", first, min(last, 29)
                if last >= 30:
                    yield "unknown", max(first, 30), last
            if envelope.events and self.questions:
                yield "stored", envelope.seq, envelope.seq + len(envelope.events) - 1

    transport = Ledger()
    with memory_producer(transport) as producer:
        assert producer.sync(60)
        assert sorted(event.seq for event in transport.events()) == list(range(40, 50))
        eventually(lambda: {event.seq for event in transport.events()} == set(range(30, 50)))
        eventually(lambda: producer.status().unreceipted == 0)
    assert transport.questions[0] == ((0, 39),)
    assert files(spool_folder) == []


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest", "raise", "block"])
def test_a_disk_that_refuses_is_the_policys_matter(policy: Any) -> None:
    drops = Drops()
    transport = MemoryTransport()
    transport.is_away = True
    text = "x" * 1_000
    options: dict[str, Any] = {"spool_max_bytes": 200_000, "on_drop": drops, "block_timeout_s": 0.05, "exit_deadline_s": 0.1}
    with journal(transport, policy=policy, **options) as producer:
        refused = 0
        for number in range(300):
            try:
                producer.publish(Pair(tenant="a", number=number, text=text))
            except BufferFull:
                refused += 1
                break
        status = producer.status()
        kept = status.accepted - status.dropped.get("spool_full", 0)
        assert 100 < kept < 200
        assert status.unreceipted == kept
        if policy in ("raise", "block"):
            assert (refused, status.dropped) == (1, {})
        else:
            assert (refused, sum(count for count, _ in drops.told)) == (0, status.dropped["spool_full"])
        transport.is_away = False
        assert producer.sync(60)
        eventually(lambda: producer.status().unreceipted == 0)
        # There is room again, after a second at the latest.
        eventually(lambda: published(producer))


def full_journal(transport: MemoryTransport) -> Producer:
    """Its disk had room for some of its events, and its broker confirmed all, and what was dropped; nothing is answered."""
    transport.outcome = None
    producer = journal(transport, name="full", spool_max_bytes=200_000, exit_deadline_s=0.1, linger_s=0.001)
    for number in range(300):
        producer.publish(Pair(tenant="a", number=number, text="x" * 1_000))
    assert producer.flush(60)
    eventually(lambda: told_drops(transport) == producer.status().dropped["spool_full"] > 0)
    return producer


def told_drops(transport: MemoryTransport) -> int:
    return sum(part.last - part.first + 1 for envelope in transport.envelopes for part in envelope.dropped)


def test_what_was_dropped_is_told_again_when_the_broker_has_lost_something() -> None:
    transport = MemoryTransport()
    with full_journal(transport) as producer:
        told = told_drops(transport)
        assert producer._outbox.receipts is not None
        transport.envelopes.clear()
        producer._outbox.receipts.unknown(producer.status().epoch, 0, 7)
        eventually(lambda: told_drops(transport) == told)
        eventually(lambda: {event.seq for event in transport.events()} == set(range(8)))


def test_who_adopts_a_journal_tells_again_what_was_dropped_of_it() -> None:
    first, second = MemoryTransport(), MemoryTransport()
    producer = full_journal(first)
    told, epoch = told_drops(first), producer.status().epoch
    producer.close(0.1)
    second.outcome = None
    with memory_producer(second, exit_deadline_s=0.1) as adopter:
        assert adopter.sync(60)
        eventually(lambda: any(envelope.is_closed for envelope in second.envelopes if envelope.epoch == epoch))
        assert told_drops(second) == told
        second.envelopes.clear()
        adopter._outbox.receipts.unknown(epoch, 0, 7)  # type: ignore[union-attr]
        eventually(lambda: any(envelope.is_closed for envelope in second.envelopes if envelope.epoch == epoch))
        assert told_drops(second) == told
        assert {event.seq for event in second.events()} == set(range(8))


def published(producer: Producer) -> bool:
    try:
        producer.publish(PAIR)
    except BufferFull:
        return False
    eventually(lambda: producer.status().unreceipted == 0)
    return producer.status().accepted > 0


def test_a_journal_without_a_folder_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"the spool folder .*/file/no cannot be made: Not a directory"):
        away_producer(durability="journal", spool_folder=tmp_path / "file" / "no")


def test_a_closed_journal_takes_nothing() -> None:
    producer = journal(MemoryTransport())
    producer.publish(PAIR)
    assert producer.close(60)
    with pytest.raises(ProducerClosed):
        producer.publish(PAIR)
    with pytest.raises(ProducerClosed):
        producer.publish_many([PAIR])
    assert producer.publish_many([]) == []


def test_a_deadline_leaves_the_rest_on_disk_and_drops_nothing(spool_folder: Path) -> None:
    def work() -> list[Any]:
        producer = away_producer(durability="journal", spool_folder=spool_folder)
        producer.publish_many(pairs(20))
        return [producer.close(0.05), producer.status().dropped]

    assert in_child(work) == [False, {}]
    assert events_on_disk(spool_folder) == 20


@pytest.mark.parametrize("is_away", [False, True])
def test_a_producer_that_nobody_holds_any_more_leaves_no_thread(is_away: bool) -> None:
    """Also not when the keeper's last turn listens for receipts after the files were given back."""
    transport = MemoryTransport()
    transport.is_away = is_away
    producer = journal(transport, name="left", exit_deadline_s=0.1)
    outbox = producer._outbox
    keeper, spool = outbox.keeper, outbox.spool
    assert keeper is not None
    assert spool is not None
    is_turning, has_listened = threading.Event(), threading.Event()
    turn, listen = keeper.run_once, keeper._on_turn

    def turn_and_tell() -> None:
        is_turning.set()
        turn()

    def listen_late() -> None:
        eventually(lambda: spool.stocks.is_closed)
        listen()
        has_listened.set()

    keeper.run_once, keeper._on_turn = turn_and_tell, listen_late  # type: ignore[method-assign]
    producer.publish_many(pairs(10))
    assert is_turning.wait(60)
    del producer
    gc.collect()
    assert has_listened.wait(60)
    eventually(lambda: not [thread.name for thread in threading.enumerate() if thread.name.startswith("penstock-left")])


def test_a_signal_handler_may_publish() -> None:
    with MemoryProducer(durability="journal", max_events=1_000_000, max_bytes=1_000_000_000) as producer:
        published = publish_beside_handlers(producer, PAIR)
        accepted = producer.status().accepted
        assert accepted == published
        assert sorted({event.seq for event in producer.events}) == list(range(accepted))
        eventually(lambda: producer.status().unreceipted == 0)


def test_threads_share_a_journal() -> None:
    with MemoryProducer(durability="journal") as producer:
        threads = [threading.Thread(target=lambda: [producer.publish(PAIR) for _ in range(200)]) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert sorted({event.seq for event in producer.events}) == list(range(1_000))
        eventually(lambda: producer.status().unreceipted == 0)


# --- apublish


def test_apublish_waits_for_room_without_the_loop() -> None:
    with MemoryProducer(policy="block", max_events=5, retry_min_s=0.01, retry_max_s=0.01) as producer:
        producer.transport.is_away = True
        ticks: list[int] = []

        async def work() -> None:
            async def publish() -> int:
                return (await producer.apublish(PAIR)).seq

            tasks = [asyncio.create_task(publish()) for _ in range(20)]
            for number in range(50):
                await asyncio.sleep(0.001)
                ticks.append(number)
            assert sum(task.done() for task in tasks) <= 5
            producer.transport.is_away = False
            assert sorted(await asyncio.gather(*tasks)) == list(range(20))

        asyncio.run(work())
        assert len(ticks) == 50
        assert len(producer.events) == 20


def test_apublish_writes_the_journal_in_a_thread() -> None:
    threads: list[int] = []
    with MemoryProducer(durability="journal") as producer:
        accept = producer._outbox.accept

        def noted(event: bytes) -> int:
            threads.append(threading.get_ident())
            return accept(event)

        producer._outbox.accept = noted
        receipt = asyncio.run(producer.apublish(PAIR))
        assert (receipt.seq, producer.status().accepted) == (0, 1)
    assert threads != [threading.get_ident()]
    assert len(threads) == 1


def test_apublish_serialises_when_it_is_called() -> None:
    async def work(producer: MemoryProducer) -> None:
        record = Pair(tenant="before", number=1)
        awaitable = producer.apublish(record)
        producer.publish(PAIR)
        record.tenant = "after"
        await awaitable

    with MemoryProducer() as producer:
        asyncio.run(work(producer))
        second, first = producer.events
    assert first.data["tenant"] == "before"
    assert first.version < second.version
