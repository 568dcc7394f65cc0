"""Exceptions, signals and finalizers that arrive in the middle of publish(), and close() in the middle of anything."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from penstock_producers import Producer, ProducerClosed
from penstock_producers.spool.file import SpoolFile, SpoolRefused
from penstock_producers.spool.listing import list_spools
from penstock_producers.testing import MemoryTransport
from tests.producing import eventually
from tests.records import Pair
from tests.spooling import away_producer, memory_producer, pairs, spooled

PAIR = Pair(tenant="a", number=1)

#: Interruptions of a run; each comes some CPU time later in its turn than the one before.
TURNS = 40

Handle = Callable[[Callable[[], Any]], None]
Append = Callable[[SpoolFile, Sequence[tuple[int, bytes]]], None]


class SoftLimitError(Exception):
    """As Celery's soft time limit, or SystemExit of a handler of SIGTERM."""


@pytest.fixture
def on_alarm() -> Iterator[Handle]:
    """
    Says what SIGVTALRM does, which comes by the process's own time; SIGALRM is pytest-timeout's.

    Collections rest meanwhile: what a handler raises inside one of their callbacks (hypothesis has one) Python would swallow.
    """
    former = signal.getsignal(signal.SIGVTALRM)

    def handle(work: Callable[[], Any]) -> None:
        signal.signal(signal.SIGVTALRM, lambda *_: work())

    gc.disable()
    yield handle
    gc.enable()
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, former)


class Disk:
    """Its next write does something first, once; while it `hangs` nothing is written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.first: Callable[[], Any] | None = None
        self.goes_on = threading.Event()
        self.goes_on.set()
        write = SpoolFile.append

        def append(file: SpoolFile, rows: Sequence[tuple[int, bytes]]) -> None:
            first, self.first = self.first, None
            if first is not None:
                first()
            assert self.goes_on.wait(120)
            write(file, rows)

        monkeypatch.setattr(SpoolFile, "append", append)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def spool_of(producer: Producer) -> Any:
    return producer._outbox.spool


def on_disk(folder: Path) -> int:
    return sum(seen.events or 0 for seen in list_spools(folder))


def publish_on(producer: Producer, before: Callable[[], None] = lambda: None) -> None:
    """Until something is raised."""
    while True:
        before()
        producer.publish(PAIR)


def raise_soft_limit() -> None:
    raise SoftLimitError


@pytest.mark.parametrize(("durability", "is_away"), [("spill", True), ("spill", False), ("journal", False)])
def test_exceptions_at_any_moment_leave_no_gap_and_no_lock(durability: Any, is_away: bool, on_alarm: Handle) -> None:
    transport = MemoryTransport()
    transport.is_away = is_away
    is_armed = False
    interrupted = 0

    def interrupt() -> None:
        nonlocal is_armed
        if is_armed:
            is_armed = False
            raise SoftLimitError

    on_alarm(interrupt)
    producer = memory_producer(transport, durability=durability, max_events=500, retry_max_s=0.05)
    producer.publish(PAIR)
    for turn in range(TURNS):
        try:
            is_armed = True
            signal.setitimer(signal.ITIMER_VIRTUAL, 0.001 + 0.0004 * turn)
            while is_armed:
                producer.publish(PAIR)
        except SoftLimitError:
            interrupted += 1
        assert not producer._outbox.buffer.is_entered
        assert not spool_of(producer).is_entered
    assert interrupted == TURNS
    transport.is_away = False
    assert producer.sync(120)
    assert durability == "spill" or producer.await_receipts(120)
    status = producer.status()
    told = {seq for envelope in transport.envelopes for part in envelope.dropped for seq in range(part.first, part.last + 1)}
    arrived = {event.seq for event in transport.events()}
    assert set(range(status.accepted)) - told - arrived == set()
    assert (status.pending_writes, status.pending_bytes, producer.close()) == (0, 0, True)


def test_an_exception_in_the_middle_of_a_write_keeps_the_events(disk: Disk, on_alarm: Handle) -> None:
    transport = MemoryTransport()
    transport.is_away = True
    with memory_producer(transport, max_events=100, retry_min_s=1_000, retry_max_s=1_000) as producer:
        on_alarm(raise_soft_limit)
        main = threading.current_thread()

        def interrupt() -> None:
            # Only a write by this thread can be interrupted, the keeper may have been faster.
            if threading.current_thread() is main:
                signal.raise_signal(signal.SIGVTALRM)

        def interrupt_next() -> None:
            disk.first = interrupt

        with pytest.raises(SoftLimitError):
            publish_on(producer, interrupt_next)
        transport.is_away = False
        assert producer.sync(120)
        assert len({event.seq for event in transport.events()}) == producer.status().accepted
        assert producer.status().dropped == {}


def test_closing_waits_for_what_others_are_moving(disk: Disk, spool_folder: Path) -> None:
    producer = away_producer()
    is_writing = threading.Event()
    disk.first = is_writing.set
    disk.goes_on.clear()
    producer.publish_many(pairs(500))
    assert is_writing.wait(120)
    closing = threading.Thread(target=producer.close, args=(0.5,))
    closing.start()
    disk.goes_on.set()
    closing.join(120)
    assert (producer.status().dropped, on_disk(spool_folder)) == ({}, 500)


def test_what_is_being_moved_when_the_producer_is_closed_is_counted_once_it_is_refused() -> None:
    producer = away_producer(linger_s=1_000)
    buffer = producer._outbox.buffer
    producer.publish_many(pairs(5))

    def refuse(*_: Any) -> bool:
        assert buffer.abandon() == 0
        return False

    producer._outbox.spool.append = refuse  # type: ignore[union-attr,assignment,method-assign]
    assert not buffer.move_to_spool()
    assert producer.status().dropped == {"close_deadline": 5}


@pytest.mark.parametrize("is_away", [False, True])
def test_closing_in_a_handler_that_interrupts_publish_loses_nothing(is_away: bool, on_alarm: Handle, tmp_path: Path) -> None:
    for turn in range(6):
        transport = MemoryTransport()
        transport.is_away = is_away
        folder = tmp_path / str(turn)
        producer = memory_producer(transport, max_events=500, spool_folder=folder, exit_deadline_s=120.0)
        on_alarm(lambda closes=producer: closes.close(0.05 if is_away else 120.0))  # type: ignore[misc]
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.01 + 0.0031 * turn)
        with pytest.raises(ProducerClosed):
            publish_on(producer)
        producer.close(0.05 if is_away else 120.0)  # as the exit hook does
        status = producer.status()
        kept = {event.seq for event in transport.events()}
        assert status.accepted == len(kept) + on_disk(folder)
        assert status.dropped == {}


def test_a_handler_finds_its_thread_inside_and_leaves_closing_to_the_exit_hook() -> None:
    transport = MemoryTransport()
    producer = memory_producer(transport, linger_s=1_000)
    producer.publish(PAIR)
    with producer._outbox.buffer.lock:
        assert not producer.close(120)
    eventually(lambda: len(transport.events()) == 1)  # the sender ends by itself
    assert producer.close(120)


@pytest.mark.parametrize("look", ["status", "publish"])
def test_while_the_disk_hangs_nobody_waits_for_it(disk: Disk, look: str) -> None:
    producer = away_producer(late_after_s=0.001)
    is_writing = threading.Event()
    disk.first = is_writing.set
    disk.goes_on.clear()
    producer.publish_many(pairs(500))
    assert is_writing.wait(120)
    done = threading.Event()

    def ask() -> None:
        producer.status() if look == "status" else producer.publish(PAIR)
        done.set()

    threading.Thread(target=ask, daemon=True).start()
    assert done.wait(60)  # and the disk goes on after that only
    disk.goes_on.set()
    producer.close(0)


def test_with_a_full_memory_and_a_disk_that_hangs_the_policy_is_asked(disk: Disk) -> None:
    producer = away_producer(max_events=2_000)
    is_writing = threading.Event()
    disk.first = is_writing.set
    disk.goes_on.clear()
    producer.publish_many(pairs(1_500))
    assert is_writing.wait(120)  # the keeper
    done = threading.Event()

    def publish() -> None:
        for record in pairs(600):
            producer.publish(record)
        done.set()

    threading.Thread(target=publish, daemon=True).start()
    assert done.wait(60)  # and the disk goes on after that only
    assert producer.status().dropped == {"buffer_full": 100}
    disk.goes_on.set()
    producer.close(0)


def test_a_finalizer_that_publishes_inside_of_the_journal_does_not_deadlock(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = MemoryTransport()
    producer = memory_producer(transport, durability="journal")
    is_inside, is_over = threading.Event(), threading.Event()
    delete = SpoolFile.delete

    def finalize(file: SpoolFile, ranges: Any) -> None:
        if not is_inside.is_set():
            is_inside.set()
            time.sleep(0.2)  # for the other publisher to come to where it waits for this thread
            producer.publish(PAIR)
        delete(file, ranges)

    monkeypatch.setattr(SpoolFile, "delete", finalize)

    def publish() -> None:
        while not is_inside.is_set():
            producer.publish(PAIR)
        for _ in range(100):
            producer.publish(PAIR)
        is_over.set()

    threading.Thread(target=publish, daemon=True).start()
    assert is_over.wait(60)
    assert producer.flush(60)
    assert len({event.seq for event in transport.events()}) == producer.status().accepted
    assert producer.close()


def test_a_read_that_the_disk_refuses_once_is_tried_again_and_sync_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = MemoryTransport()
    transport.is_away = True
    with memory_producer(transport, retry_min_s=1_000, retry_max_s=1_000) as producer:
        producer.publish_many(pairs(300))
        eventually(spooled(producer, 300))
        read = SpoolFile.read
        refusals = [SpoolRefused("disk I/O error")]

        def refuse_once(file: SpoolFile, *where: Any) -> Any:
            if refusals:
                raise refusals.pop()
            return read(file, *where)

        monkeypatch.setattr(SpoolFile, "read", refuse_once)
        transport.is_away = False
        assert producer.sync(120)
        assert (producer.status().spooled, len(transport.events()), refusals) == (0, 300, [])
