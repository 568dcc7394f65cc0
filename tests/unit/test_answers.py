"""Who waits for answers, what is asked and when, with a clock and a mailbox of the test's own."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator, Sequence
from dataclasses import FrozenInstanceError, replace
from typing import Any
from uuid import UUID

import pytest

from penstock_producers import ProducerClosed, ProducerError, Receipt, TransportError
from penstock_producers.answers import Answers
from penstock_producers.buffer import Buffer
from penstock_producers.testing import MemoryProducer
from penstock_schemas.answer import UNKNOWN, Answer, SeqRange, new_address
from penstock_schemas.records.translation import TranslationSession
from penstock_schemas.wire import Envelope, new_epoch
from tests.producing import Clock, eventually, in_child, options

STRANGER = UUID("0199a000-0000-7a00-9000-00000000000b")


class FakeMailbox:
    """Holds what a test puts in; a broker that is away when `error` is set."""

    def __init__(self) -> None:
        self.address: str | None = new_address()
        self.lines: list[bytes] = []
        self.error: Exception | None = None
        self.is_closed = False

    def receive(self, timeout_s: float) -> list[bytes]:
        assert timeout_s > 0
        if self.error:
            raise self.error
        lines, self.lines = self.lines, []
        return lines

    def close(self) -> None:
        self.is_closed = True

    def forget(self) -> None:
        pass


class Desk:
    """`Answers` turned by hand: its thread is said to run, and each `turn` is one of its turns."""

    def __init__(self, **given: Any) -> None:
        self.clock, self.mailbox = Clock(), FakeMailbox()
        self.options = options(max_events=1_000_000, max_bytes=100_000_000, heartbeat_s=1e9, **given)
        self.buffer = Buffer(self.options, new_epoch(), lambda *_: self.answers.look(), self.clock)
        self.answers = Answers(self.options, self.buffer, lambda: self.mailbox, lambda: None, now=self.clock, sleep=self.sleep)
        self.answers._is_running = True
        self.slept: list[float] = []
        self.results: dict[int, Any] = {}
        self._threads: list[threading.Thread] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def publish(self, count: int = 1) -> None:
        for _ in range(count):
            self.buffer.accept(b"{}")

    def send(self) -> list[Envelope]:
        """What the sender would do until nothing is due: returns the envelopes."""
        sent: list[Envelope] = []
        while self.buffer.due_in_s() <= 0:
            for envelope in self.buffer.cut(32, 1_000_000):
                self.buffer.confirm(envelope)
                sent.append(envelope)
        return sent

    def sent_earlier(self, count: int) -> None:
        """Events that nobody waited for when they were sent."""
        self.publish(count)
        self.clock.now += 1
        while self.send():
            pass

    def wait(self, *seqs: int, timeout_s: float = 10.0) -> None:
        """Begin to wait, each in a thread of its own, and turn once."""
        for seq in seqs:
            self._begin(seq, lambda seq=seq: self.answers.wait(seq, timeout_s))
        self.turn()

    def barrier(self, timeout_s: float = 10.0) -> None:
        self._begin(-1, lambda: self.answers.barrier(timeout_s))
        self.turn()

    def _begin(self, name: int, wait: Any) -> None:
        def run() -> None:
            try:
                self.results[name] = wait()
            except ProducerError as exc:
                self.results[name] = exc

        before = len(self.answers._asking.wants)
        self._threads.append(threading.Thread(target=run, daemon=True))
        self._threads[-1].start()
        eventually(lambda: len(self.answers._asking.wants) > before or name in self.results)

    def turn(self, *answers: Answer | bytes) -> None:
        self.mailbox.lines += [line if isinstance(line, bytes) else line.line().encode() for line in answers]
        self.answers.run_once()

    def tell(self, *parts: tuple[str, int, int], epoch: UUID | None = None) -> None:
        self.turn(Answer(epoch or self.buffer.epoch, parts))

    def result(self, name: int = -1) -> Any:
        eventually(lambda: name in self.results)
        return self.results[name]

    def run_to_the_end(self) -> None:
        """The thread itself, until nobody has waited for a while."""
        self._threads.append(threading.Thread(target=self.answers.run, daemon=True))
        self._threads[-1].start()

        def has_ended() -> bool:
            if not self.answers._asking.wants and self.answers._listener is None:
                self.clock.now += 10
            return not self._threads[-1].is_alive()

        eventually(has_ended)

    def end(self) -> None:
        self.buffer.begin_close()
        self.answers.look()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.end()


def queries(envelopes: Sequence[Envelope]) -> list[list[SeqRange]]:
    return [list(envelope.query) for envelope in envelopes if envelope.query]


# --- waiting


def test_without_waiters_nothing_is_asked_for(desk):
    desk.publish(20)
    desk.clock.now += 1
    assert {envelope.reply_to for envelope in desk.send()} == {None}
    assert not desk.answers._asking.wants


def test_an_event_that_is_waited_for_does_not_linger_and_is_answered(desk):
    desk.publish()
    assert desk.buffer.due_in_s() > 0
    desk.wait(0)
    (envelope,) = desk.send()
    assert (envelope.seq, len(envelope.events), envelope.reply_to) == (0, 1, desk.mailbox.address)
    desk.tell(("stored", 0, 0))
    assert desk.result(0) == "stored"


def test_what_was_sent_before_is_asked_for_with_its_neighbours(desk):
    desk.sent_earlier(30)
    desk.wait(10)
    (envelope,) = desk.send()
    assert (envelope.query, envelope.reply_to, envelope.events) == (((0, 29),), desk.mailbox.address, ())
    desk.tell(("stored", 0, 19), ("dead", 20, 20), (UNKNOWN, 21, 29))
    assert desk.result(10) == "stored"
    # Known already: no thread, no question.
    assert [desk.answers.wait(seq, 0.0) for seq in (0, 19, 20)] == ["stored", "stored", "dead"]
    assert desk.send() == []
    # Without patience one may look again and again; each look asks, if nothing is under way.
    assert [desk.answers.wait(21, 0.0), desk.answers.wait(21, 0.0)] == ["timeout", "timeout"]
    assert queries(desk.send()) == [[(21, 29)]]


def test_ten_thousand_waits_one_after_the_other_are_one_question(desk):
    desk.sent_earlier(10_000)
    desk.wait(0)
    assert queries(desk.send()) == [[(0, 9_999)]]
    desk.tell(("stored", 0, 9_999))
    assert {desk.answers.wait(seq, 0.0) for seq in range(10_000)} == {"stored"}
    assert desk.send() == []


def test_many_waiters_share_one_question(desk):
    desk.sent_earlier(100)
    desk.wait(*range(0, 100, 5))
    assert queries(desk.send()) == [[(0, 99)]]
    desk.tell(("stored", 0, 49), ("superseded", 50, 99))
    assert [desk.result(seq) for seq in (0, 45, 50, 95)] == ["stored", "stored", "superseded", "superseded"]


def test_unknown_is_asked_again_at_growing_intervals(desk):
    desk.sent_earlier(1)
    desk.wait(0, timeout_s=1_000)
    assert queries(desk.send()) == [[(0, 0)]]
    for pause_s in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0):
        desk.tell((UNKNOWN, 0, 0))
        desk.clock.now += pause_s * 0.9
        desk.turn()
        assert desk.send() == []
        desk.clock.now += pause_s * 0.2
        desk.turn()
        assert queries(desk.send()) == [[(0, 0)]]
    desk.tell(("stored", 0, 0))
    assert desk.result(0) == "stored"


def test_a_question_without_an_answer_is_asked_again_ever_later(desk):
    desk.sent_earlier(1)
    desk.wait(0, timeout_s=1_000)
    assert queries(desk.send()) == [[(0, 0)]]
    for patience_s in (2, 4, 8, 16, 32, 60, 60):
        desk.clock.now += patience_s * 0.9
        desk.turn()
        assert desk.send() == []
        desk.clock.now += patience_s * 0.2
        desk.turn()
        assert queries(desk.send()) == [[(0, 0)]]


def test_while_the_broker_is_away_questions_do_not_pile_up(desk):
    desk.sent_earlier(1)
    desk.wait(0, timeout_s=10_000)
    for _ in range(20):
        desk.clock.now += 100
        desk.turn()
    assert len(queries(desk.send())) == 1


def test_an_answer_that_should_have_come_by_itself_is_asked_for(desk):
    desk.publish()
    desk.wait(0)
    assert queries(desk.send()) == []
    desk.clock.now += 2.9
    desk.turn()
    assert desk.send() == []
    desk.clock.now += 0.2
    desk.turn()
    assert queries(desk.send()) == [[(0, 0)]]


def test_at_a_new_address_all_that_is_waited_for_is_asked_anew(desk):
    desk.publish()
    desk.wait(0)
    assert desk.send()[0].reply_to == desk.mailbox.address
    desk.mailbox.address = new_address()
    desk.turn()
    (envelope,) = desk.send()
    assert (envelope.query, envelope.reply_to) == (((0, 0),), desk.mailbox.address)


def test_without_an_address_nothing_is_asked_until_there_is_one(desk):
    address, desk.mailbox.address = desk.mailbox.address, None
    desk.sent_earlier(1)
    desk.wait(0)
    assert desk.send() == []
    desk.mailbox.address = address
    desk.turn()
    assert desk.send()[0].reply_to == address


def test_the_strongest_of_several_outcomes_counts(desk):
    """An event that came twice is superseded by itself."""
    desk.sent_earlier(2)
    desk.wait(0)
    desk.tell(("superseded", 0, 1))
    desk.tell(("stored", 0, 1))
    assert desk.answers.wait(1, 0.0) == "stored"


def test_time_runs_out(desk):
    desk.sent_earlier(1)
    desk._begin(0, lambda: desk.answers.wait(0, 5.0))
    desk.clock.now += 5
    desk.answers.look()
    assert desk.result(0) == "timeout"
    assert not desk.answers._asking.wants


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"nonsense",
        b"\xff\xfe",
        b"1",
        b"1 no-epoch stored:0-0",
        b"2 %b stored:0-0",
        b"1 %b stored:0",
        b"1 %b stored:0-x",
        b"1 %b stored:-1-0",
        b"1 %b stored:5-0",
        b"1 %b wonderful:0-0",
        b"1 %b stored:0-9999999999999999999999",
        b"1 0199a000-0000-7a00-9000-00000000000b stored:0-0",
        b"1 %b",
    ],
)
def test_what_is_no_answer_changes_nothing(desk, line):
    desk.sent_earlier(1)
    desk.wait(0)
    desk.turn(line.replace(b"%b", str(desk.buffer.epoch).encode()))
    assert desk.answers.wait(0, 0.0) == "timeout"
    desk.tell(("stored", 0, 0))
    assert desk.result(0) == "stored"


def test_more_outcomes_than_are_remembered_are_forgotten_and_asked_again(desk):
    desk.sent_earlier(50_000)
    scattered = [("dead" if seq % 2 else "stored", seq, seq) for seq in range(20_000)]
    desk.wait(1)
    desk.tell(*scattered)
    assert desk.result(1) == "dead"
    assert desk.answers.wait(3, 0.0) == "dead"
    desk.tell(("stored", 30_000, 30_000))
    assert desk.answers.wait(3, 0.0) == "timeout"
    assert desk.answers.wait(30_000, 0.0) == "stored"


# --- drops, closing, other processes


def test_a_dropped_event_is_known_without_asking():
    desk = Desk(policy="drop_newest")
    desk.buffer.held.max_events = 2
    desk.publish(4)
    desk.mailbox.error = TransportError("away")
    assert [desk.answers.wait(seq, 0.0) for seq in (2, 3)] == ["dropped", "dropped"]
    desk.buffer.abandon()
    desk.end()


def test_a_waiter_hears_at_once_that_its_event_is_dropped():
    desk = Desk(policy="drop_oldest")
    desk.buffer.held.max_events = 2
    desk.publish(2)
    desk.wait(0, timeout_s=1_000)
    desk.publish(1)
    assert desk.result(0) == "dropped"
    desk.end()


def test_closing_ends_all_waits_but_for_what_is_known(desk):
    desk.sent_earlier(2)
    desk.wait(0)
    desk.tell(("stored", 1, 1))
    desk.end()
    assert isinstance(desk.result(0), ProducerClosed)
    assert desk.answers.wait(1, 10.0) == "stored"
    with pytest.raises(ProducerClosed, match="is closed"):
        desk.answers.wait(0, 10.0)
    with pytest.raises(ProducerClosed, match="is closed"):
        desk.answers.barrier(10.0)


def test_a_forked_child_cannot_wait_for_its_parents_event():
    producer = MemoryProducer()
    receipt = producer.publish(TranslationSession(session_id="s"))
    assert receipt.wait() == "stored"

    def wait() -> tuple[str, str]:
        with pytest.raises(ProducerError, match="parent process"):
            receipt.wait()
        return producer.publish(TranslationSession(session_id="t")).wait(), receipt.wait.__name__

    assert in_child(wait) == ["stored", "wait"]
    producer.close()


def test_a_receipt_is_one_however_it_was_made():
    producer = MemoryProducer()
    receipt = producer.publish(TranslationSession(session_id="s"))
    made = Receipt(producer.status().epoch, 0)
    assert (receipt, hash(receipt), repr(receipt), type(receipt)) == (made, hash(made), repr(made), Receipt)
    assert replace(receipt, seq=7) == Receipt(receipt.epoch, 7)
    for change in (lambda: setattr(receipt, "seq", 9), lambda: delattr(receipt, "epoch"), lambda: setattr(receipt, "x", 1)):
        with pytest.raises((FrozenInstanceError, TypeError)):
            change()


def test_a_receipt_survives_pickling_but_cannot_wait():
    receipt = MemoryProducer().publish(TranslationSession(session_id="s"))
    copy = pickle.loads(pickle.dumps(receipt))
    assert (copy, hash(copy), repr(copy)) == (receipt, hash(receipt), repr(receipt))
    with pytest.raises(ProducerError, match="pickled cannot wait"):
        copy.wait()


# --- barriers


def test_a_barrier_waits_for_what_was_published_before_it(desk):
    desk.sent_earlier(3)
    desk.publish(2)
    desk.barrier()
    sent = desk.send()
    assert queries(sent) == [[(0, 2)]]
    assert [(envelope.seq, len(envelope.events)) for envelope in sent if envelope.events] == [(3, 2)]
    desk.publish(1)
    desk.tell(("stored", 0, 1), ("dead", 2, 2))
    assert desk.results == {}
    desk.tell(("held", 3, 4))
    assert desk.result() is True


def test_the_next_barrier_asks_only_about_what_is_new(desk):
    desk.sent_earlier(5)
    desk.barrier()
    desk.send()
    desk.tell(("stored", 0, 4))
    assert desk.result() is True
    assert desk.answers.barrier(0.0) is True
    desk.results.clear()
    desk.answers._move(None)  # as when the thread has ended
    desk.sent_earlier(5)
    desk.barrier()
    assert queries(desk.send()) == [[(5, 9)]]


def test_drops_have_ended():
    desk = Desk()
    desk.buffer.held.max_events = 2
    desk.publish(4)
    desk.barrier()
    desk.tell(("stored", 0, 1))
    assert desk.result() is True
    desk.end()


def test_a_barrier_before_the_first_event_is_there_at_once(desk):
    assert desk.answers.barrier(0.0) is True


# --- locks


def in_time(work: Any, within_s: float = 10.0) -> bool:
    """Do it in another thread; whether it comes back."""
    is_done = threading.Event()
    threading.Thread(target=lambda: (work(), is_done.set()), daemon=True).start()
    return is_done.wait(within_s)


def test_a_drop_and_a_close_wait_for_nobody_under_the_buffers_lock(desk):
    """A handler or a finalizer has interrupted its thread there; who has the answers' lock waits for the buffer's."""
    desk.sent_earlier(1)
    desk.wait(0)
    with desk.answers._lock:
        assert in_time(lambda: desk.buffer._tell(1, "buffer_full"))
    desk.buffer.begin_close()
    assert isinstance(desk.result(0), ProducerClosed)  # it looks by itself


def test_neither_does_a_journaled_event() -> None:
    producer = MemoryProducer(durability="journal")
    outbox = producer._outbox

    def publish() -> None:
        with outbox.buffer.lock:
            producer.publish(TranslationSession(session_id="1"))

    with outbox.answers._lock:
        assert in_time(publish)
    eventually(lambda: outbox.answers._listener is not None)  # a moment later, by another thread
    producer.close()


# --- the thread


def test_the_thread_ends_when_nobody_has_waited_for_a_while(desk):
    desk.publish()
    desk.wait(0)
    desk.send()
    desk.tell(("stored", 0, 0))
    assert desk.result(0) == "stored"
    assert not desk.answers._is_over()
    desk.clock.now += 4.9
    assert not desk.answers._is_over()
    desk.clock.now += 0.2
    assert desk.answers._is_over()
    assert desk.mailbox.is_closed
    assert desk.buffer.reply_to is None


def test_a_broker_that_is_away_is_tried_again_ever_later(desk, caplog):
    desk.sent_earlier(1)
    desk.mailbox.error = TransportError("the broker is away")
    desk._begin(0, lambda: desk.answers.wait(0, 1_000))

    def back_after_ten(seconds: float) -> None:
        desk.slept.append(seconds)
        if len(desk.slept) == 10:
            desk.mailbox.error = None
            desk.mailbox.lines.append(Answer(desk.buffer.epoch, [("stored", 0, 0)]).line().encode())

    desk.answers._sleep = back_after_ten
    desk.run_to_the_end()
    assert desk.result(0) == "stored"
    assert len(desk.slept) == 10
    assert max(desk.slept) <= desk.options.retry_max_s
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


# --- the listener


class FakeListener:
    def __init__(self) -> None:
        self.missed: dict[UUID, list[SeqRange]] = {}
        self.told: list[tuple[Any, ...]] = []

    def overdue(self) -> dict[UUID, list[SeqRange]]:
        return self.missed

    def settled(self, epoch: UUID, outcome: str, first: int, last: int) -> None:
        self.told.append((epoch, outcome, first, last))

    def unknown(self, epoch: UUID, first: int, last: int) -> None:
        self.told.append((epoch, UNKNOWN, first, last))


@pytest.fixture
def listener(desk: Desk) -> FakeListener:
    listener = FakeListener()
    desk.answers.watch(listener)
    desk.turn()
    return listener


def test_a_listener_hears_every_answer(desk, listener):
    desk.publish(3)
    desk.clock.now += 1
    assert desk.send()[0].reply_to == desk.mailbox.address
    desk.tell(("stored", 0, 1), ("dead", 2, 2))
    desk.tell(("stored", 7, 9), epoch=STRANGER)
    epoch = desk.buffer.epoch
    assert listener.told == [(epoch, "stored", 0, 1), (epoch, "dead", 2, 2), (STRANGER, "stored", 7, 9)]


def test_what_a_listener_misses_is_asked_for_of_any_epoch(desk, listener):
    listener.missed = {STRANGER: [(0, 9), (20, 29)], desk.buffer.epoch: [(3, 3)]}
    desk.clock.now += 1
    desk.turn()
    asked = {envelope.epoch: list(envelope.query) for envelope in desk.send()}
    assert asked == listener.missed


def test_lost_is_what_two_answers_call_unknown(desk, listener):
    listener.missed = {STRANGER: [(0, 9)]}
    for told in ([], [(STRANGER, UNKNOWN, 3, 5)]):
        desk.clock.now += 3
        desk.turn()
        assert queries(desk.send()) == [[(0, 9)]]
        desk.tell(("stored", 0, 2), (UNKNOWN, 3, 5), ("stored", 6, 9), epoch=STRANGER)
        assert [part for part in listener.told if part[1] == UNKNOWN] == told
    # What is sent again begins anew.
    desk.clock.now += 3
    desk.turn()
    desk.tell(("stored", 0, 2), (UNKNOWN, 3, 5), epoch=STRANGER)
    assert [part for part in listener.told if part[1] == UNKNOWN] == told


def test_what_was_not_asked_is_never_called_lost(desk, listener):
    listener.missed = {STRANGER: [(5, 9)]}
    for _ in range(3):
        desk.clock.now += 3
        desk.turn()
        desk.tell((UNKNOWN, 0, 9), epoch=STRANGER)
    assert {part[2:] for part in listener.told} == {(5, 9)}


def test_one_question_of_an_epoch_is_under_way(desk, listener):
    listener.missed = {STRANGER: [(0, 9)]}
    asked_at = []
    for second in range(40):
        desk.clock.now += 1
        desk.turn()
        asked_at += [second] * len(desk.send())
    assert asked_at == [0, 2, 6, 14, 30]


def test_an_error_of_a_listener_does_not_end_the_thread(desk, listener, caplog):
    listener.overdue = lambda: 1 / 0

    def mended(_seconds: float) -> None:
        listener.overdue = dict
        desk.answers.watch(None)

    desk.answers._sleep = mended
    desk.clock.now += 2
    desk.run_to_the_end()
    assert "division by zero" in caplog.text
    assert "Traceback" in caplog.text
