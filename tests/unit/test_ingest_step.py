"""The ingest step without Celery, broker and database: what reaches the pool, what goes back, and when."""

from __future__ import annotations

import fcntl
import gc
import os
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import WorkerShutdown
from celery.worker.state import active_requests

from penstock_worker.errors import ConfigurationError
from penstock_worker.ingest import step as module
from penstock_worker.ingest.answers import AddressedAnswer, join_answers
from penstock_worker.ingest.batch import Batch
from penstock_worker.ingest.flush import Flushes
from penstock_worker.ingest.lag import Lag
from penstock_worker.ingest.measures import Measures
from penstock_worker.ingest.message import RawMessage
from penstock_worker.ingest.source import Delivery
from penstock_worker.ingest.stall import Stall
from penstock_worker.ingest.step import IngestStep

STORED = {"stored": 1}
AWAY = {"away": "no route to host"}


class Timer:
    """Entries that run when the test says so."""

    def __init__(self) -> None:
        self.entries: list[SimpleNamespace] = []

    def call_after(self, seconds: float, work: Callable[[], None]) -> SimpleNamespace:
        entry = SimpleNamespace(seconds=seconds, work=work, cancel=lambda: self._cancel(entry))
        self.entries.append(entry)
        return entry

    def _cancel(self, entry: SimpleNamespace) -> None:
        if entry in self.entries:
            self.entries.remove(entry)

    call_repeatedly = call_after

    def waits(self, seconds: float) -> int:
        return sum(entry.seconds == seconds for entry in self.entries)

    def fire(self, seconds: float) -> None:
        """Run the one entry that was set for so many seconds."""
        (entry,) = [entry for entry in self.entries if entry.seconds == seconds]
        self.entries.remove(entry)
        entry.work()


class Source:
    """Notes what it is told, as (word, tags), and raises what the test put into `errors`."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.errors: dict[str, Exception] = {}
        self.woken = 0

    def start(self, deliver: Callable[[Sequence[Delivery]], None], has_room: Callable[[], bool]) -> None:
        self._note("start")
        self.deliver, self.has_room = deliver, has_room

    def wake(self) -> None:
        self.woken += 1

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        self._note("ack", deliveries)

    def answer(self, answers: Sequence[AddressedAnswer]) -> None:
        self.told.append(("answer", list(answers)))

    def give_back(self, deliveries: Sequence[Delivery], *, is_suspect: bool = False) -> None:
        self._note("suspect" if is_suspect else "back", deliveries)

    def abandon(self, deliveries: Sequence[Delivery]) -> None:
        self._note("abandon", deliveries)

    def pause(self) -> None:
        self._note("pause")

    def resume(self) -> None:
        self._note("resume")

    def depth(self) -> int | None:
        return 7

    def stop(self) -> None:
        self._note("stop")

    def close(self) -> None:
        self._note("close")

    def _note(self, word: str, deliveries: Sequence[Delivery] | None = None) -> None:
        if word in self.errors:
            raise self.errors.pop(word)
        self.told.append(word if deliveries is None else (word, [delivery.tag for delivery in deliveries]))


class Request:
    """What Celery knows of a batch: no child has begun it until `begin`."""

    acknowledged = False

    def begin(self) -> None:
        active_requests.add(self)

    def end(self) -> None:
        self.acknowledged = True
        active_requests.discard(self)


class Pool:
    """Runs nothing: the test says how each piece ends. `maintain_pool` is Celery's look for dead children."""

    __module__ = "celery.concurrency.prefork"

    def __init__(self) -> None:
        self._pool = SimpleNamespace(_pool=[])
        self.running: list[SimpleNamespace] = []
        self.submitted: list[tuple[str, list[bytes]]] = []

    def flush(self) -> None:
        pass

    def maintain_pool(self) -> None:
        pass

    def submit(self, task: str, args: tuple[Any, ...], argsrepr: str, ending: Any) -> Request:
        request = Request()
        self.running.append(SimpleNamespace(task=task, ending=ending, request=request, argsrepr=argsrepr))
        if task == "write":
            raws, mode = args
            self.submitted.append((mode, [bytes(RawMessage(*raw).body) for raw in raws]))
        return request

    def take(self, place: int = 0) -> Any:
        """How the piece at this place ends is up to the caller."""
        piece = self.running.pop(place)
        piece.request.end()
        return piece.ending

    def discard(self, place: int = 0) -> Any:
        """Celery forgets the piece, as at a lost connection."""
        return self.running.pop(place).ending


class Lab:
    """A step that has been started, and all that it touches."""

    def __init__(self) -> None:
        self.timer, self.source, self.pool = Timer(), Source(), Pool()
        self.settings = SimpleNamespace(
            broker="redis://unused",
            queue="penstock.events",
            concurrency=2,
            batch_max_events=4,
            batch_max_bytes=1_000,
            batch_max_age_s=0.5,
            held_max_bytes=5_000,
            probe_s=3.0,
            ready_check_s=10.0,
        )
        self.consumer = SimpleNamespace(
            app=SimpleNamespace(
                penstock_settings=self.settings,
                penstock_types=("translation.task",),
                tasks={"penstock.write_batch": "write", "penstock.probe": "probe"},
            ),
            timer=self.timer,
            pool=self.pool,
            call_soon=lambda work: work(),
            connection_errors=(ConnectionError,),
            channel_errors=(),
        )
        self.step = IngestStep(self.consumer)

    def deliver(self, *tags: int, count: int = 1, size: int = 10, redeliveries: int = 0) -> None:
        body = b"x" * (size - 1)
        self.source.deliver([Delivery(RawMessage(b"%c" % (65 + tag) + body), tag, count, redeliveries) for tag in tags])

    @property
    def batches(self) -> list[tuple[str, list[int]]]:
        """Mode and tags of what the pool was given so far."""
        return [(mode, [body[0] - 65 for body in bodies]) for mode, bodies in self.pool.submitted]

    def told(self) -> list[Any]:
        """What the source was told since the last look."""
        told, self.source.told = self.source.told, []
        return told

    def try_alone(self, tag: int) -> None:
        """Deliver one that has come back so often that it is tried alone."""
        self.deliver(tag, redeliveries=9)
        assert self.batches[-1] == ("alone", [tag])


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    lab = Lab()

    class Submitter:
        def __init__(self, consumer: Any, task: str) -> None:
            self._task = task

        def submit(self, args: tuple[Any, ...], argsrepr: str, ending: Any) -> Request:
            return lab.pool.submit(self._task, args, argsrepr, ending)

    monkeypatch.setattr(module, "Submitter", Submitter)
    monkeypatch.setattr(module, "_source", lambda *_: lab.source)
    lab.step.start(lab.consumer)
    assert lab.told() == ["start"]
    yield lab
    for piece in lab.pool.running:
        active_requests.discard(piece.request)


# -- what reaches the pool ---------------------------------------------------------------------------------------------------


def test_rows_fill_a_batch(lab: Lab) -> None:
    lab.deliver(0, 1, 2, 3, 4)
    assert lab.batches == [("together", [0, 1, 2, 3])]
    assert lab.pool.running[0].argsrepr == "<4 events in 4 messages, 0.0 MB>"
    assert lab.step.state()["buffered_bytes"] == 10


def test_bytes_fill_a_batch(lab: Lab) -> None:
    lab.deliver(0, 1, 2, size=450)
    assert lab.batches == [("together", [0, 1])]


def test_age_sends_what_waits(lab: Lab) -> None:
    lab.deliver(0)
    lab.deliver(1)
    assert (lab.batches, lab.timer.waits(0.5)) == ([], 1)
    lab.timer.fire(0.5)
    assert (lab.batches, lab.timer.waits(0.5)) == ([("together", [0, 1])], 0)


def test_flush_sends_what_waits(lab: Lab) -> None:
    lab.deliver(0, count=3)
    assert flush(lab) == {"messages": 1, "events": 3, "unwritten": 1, "returned": 0, "paused_why": None}
    assert lab.batches == [("together", [0])]
    lab.pool.take().on_done(STORED)
    assert flush(lab) == {"messages": 1, "events": 3, "unwritten": 0, "returned": 0, "paused_why": None}
    assert flush(lab, "another") == {"messages": 0, "events": 0, "unwritten": 0, "returned": 0, "paused_why": None}


def test_a_flush_is_over_when_all_that_was_held_is_written_and_nothing_else(lab: Lab) -> None:
    lab.deliver(*range(6), count=4)  # two run, four are ready
    lab.deliver(6)
    assert flush(lab)["unwritten"] == 7
    lab.deliver(7)
    for left in (6, 5, 4, 3, 2, 1, 0):
        lab.pool.take().on_done(STORED)
        assert flush(lab)["unwritten"] == left
    assert lab.step.state()["held_messages"] == 1
    assert flush(lab, "another")["messages"] == 1


def test_a_flush_goes_on_in_the_parts_of_a_batch(lab: Lab) -> None:
    lab.deliver(0, 1, 2, 3)
    flush(lab)
    lab.pool.take().on_lost()
    assert lab.batches[1:] == [("together", [0, 1]), ("together", [2, 3])]
    lab.pool.take().on_done(STORED)
    assert (flush(lab)["unwritten"], flush(lab)["returned"]) == (2, 0)
    lab.pool.take().on_done(STORED)
    assert flush(lab)["unwritten"] == 0


def test_what_goes_back_to_the_broker_is_not_flushed(lab: Lab) -> None:
    lab.deliver(0, 1, 2)
    flush(lab)
    lab.pool.take().on_done(AWAY)
    told = flush(lab)
    assert (told["unwritten"], told["returned"]) == (3, 3)
    assert "the database is away" in told["paused_why"]


def test_a_flush_is_timed_by_the_worker() -> None:
    now = [1.0]
    flushes, batch = Flushes(lambda: now[0]), Batch([Delivery(RawMessage(b"x"), 0, 1, 0)], "rows")
    flushes.begin("a", [batch])
    now[0] = 1.02
    assert (flushes.look("a", [batch]) or {})["ms"] == 20
    batch.flushes[0].written(1)
    now[0] = 5.0
    assert (flushes.look("a", []) or {})["ms"] == 20
    assert flushes.look("unknown", [batch]) is None


def test_old_flushes_are_forgotten() -> None:
    flushes = Flushes()
    for number in range(101):
        flushes.begin(str(number), [])
    assert flushes.look("0", []) is None
    assert (flushes.look("1", []) or {})["unwritten"] == 0


def flush(lab: Lab, id: str = "one") -> dict[str, Any]:
    """What the step says of a flush that this begins, or that is under way; without what is the same for all."""
    told = lab.step.flush(id)
    assert told.pop("queue") == "penstock.events"
    assert told.pop("ms") >= 0
    return told


def test_an_aged_batch_that_finds_no_child_grows_until_one_is_free(lab: Lab) -> None:
    lab.deliver(0, 1, count=4)
    lab.deliver(2)
    lab.timer.fire(0.5)
    lab.deliver(3)
    assert lab.batches == [("together", [0]), ("together", [1])]
    lab.pool.take().on_done(STORED)
    assert lab.batches[2:] == [("together", [2, 3])]


def test_never_more_runs_than_there_are_children(lab: Lab) -> None:
    lab.deliver(*range(6), count=4)
    for done in range(6):
        assert (len(lab.pool.running), lab.step.state()["running_batches"]) == (min(2, 6 - done),) * 2
        lab.pool.take().on_done(STORED)
    assert lab.batches == [("together", [tag]) for tag in range(6)]
    assert lab.told() == [("ack", [tag]) for tag in range(6)]


def test_a_batch_is_acknowledged_first_and_answered_then(lab: Lab) -> None:
    answers = [AddressedAnswer("penstock.answers.a", "1 x stored:0-4"), AddressedAnswer("penstock.answers.b", "1 y dead:1-1")]
    lab.deliver(0, count=4)
    lab.pool.take().on_done({**STORED, "answers": join_answers(answers)})
    assert lab.told() == [("ack", [0]), ("answer", answers)]


def test_what_was_not_acknowledged_is_not_answered(lab: Lab) -> None:
    lab.source.errors["ack"] = ConnectionError("gone")
    lab.deliver(0, count=4)
    with pytest.raises(ConnectionError):
        lab.pool.take().on_done({**STORED, "answers": "penstock.answers.a 1 x stored:0-4"})
    assert lab.told() == []


def test_there_is_no_room_for_more_batches_than_can_run_next(lab: Lab) -> None:
    lab.deliver(0, 1, 2, count=4)
    assert lab.source.has_room()
    lab.deliver(3, count=4)
    assert not lab.source.has_room()
    lab.pool.take().on_done(STORED)
    assert (lab.source.has_room(), lab.source.woken) == (True, 1)


def test_there_is_no_room_for_more_bytes_than_allowed(lab: Lab) -> None:
    lab.deliver(0, size=4_000)
    lab.deliver(1, size=999)
    assert lab.source.has_room()
    lab.deliver(2, size=1)
    assert not lab.source.has_room()


# -- the database is away ----------------------------------------------------------------------------------------------------


def test_away_gives_all_that_waits_back_once_and_pauses_until_a_probe_succeeds(lab: Lab) -> None:
    lab.deliver(0, 1, 2, count=4)
    lab.deliver(3)
    lab.pool.take().on_done(AWAY)
    assert lab.told() == [("back", [0]), "pause", ("back", [2]), ("back", [3])]
    assert (lab.step.is_paused, lab.source.has_room(), len(lab.step.ready), lab.step.buffer.is_empty) == (True, False, 0, True)
    lab.pool.take().on_done(AWAY)
    assert (lab.told(), lab.pool.running, lab.timer.waits(3.0)) == ([("back", [1])], [], 1)

    lab.timer.fire(3.0)
    lab.pool.take().on_done(AWAY)
    assert (lab.told(), lab.timer.waits(3.0)) == ([], 1)
    lab.timer.fire(3.0)
    lab.pool.take().on_done({})
    assert (lab.told(), lab.step.is_paused, lab.timer.waits(3.0)) == (["resume"], False, 0)
    lab.deliver(0, count=4)
    assert lab.batches[2:] == [("together", [0])]


@pytest.mark.parametrize("end", ["on_lost", "on_failed"])
def test_a_probe_that_fails_is_made_again(lab: Lab, end: str) -> None:
    lab.deliver(0, count=4)
    lab.pool.take().on_done(AWAY)
    lab.timer.fire(3.0)
    getattr(lab.pool.take(), end)()
    assert (lab.step.is_paused, lab.timer.waits(3.0)) == (True, 1)


def test_an_unreadable_answer_is_no_commit(lab: Lab) -> None:
    lab.deliver(0, count=4)
    lab.pool.take().on_done(None)
    assert (lab.told(), lab.step.is_paused) == ([("back", [0]), "pause"], True)


def test_flush_while_paused_sends_nothing_and_loses_nothing(lab: Lab) -> None:
    lab.deliver(0, count=4)
    lab.pool.take().on_done(AWAY)
    lab.deliver(1)  # it was on its way when the source was paused
    assert flush(lab)["messages"] == 1
    assert (len(lab.batches), len(lab.pool.running)) == (1, 0)
    lab.timer.fire(3.0)
    lab.pool.take().on_done({})
    assert lab.batches[1:] == [("together", [1])]


def test_an_idle_worker_looks_and_pauses_as_after_a_batch(lab: Lab) -> None:
    lab.timer.fire(module.POOL_LOOK_S)
    assert [piece.task for piece in lab.pool.running] == ["probe"]
    lab.deliver(0)
    lab.pool.take().on_done(AWAY)
    assert (lab.told(), lab.step.paused_why) == (["pause", ("back", [0])], "the database is away: no route to host")
    lab.timer.fire(3.0)
    lab.pool.take().on_done({})
    assert (lab.told(), lab.step.is_paused) == (["resume"], False)


@pytest.mark.parametrize("end", ["on_lost", "on_failed"])
def test_a_look_that_fails_pauses_nobody(lab: Lab, end: str) -> None:
    lab.timer.fire(module.POOL_LOOK_S)
    getattr(lab.pool.take(), end)()
    assert (lab.told(), lab.step.is_paused) == ([], False)


def test_no_batch_waits_in_the_pool_behind_a_look(lab: Lab) -> None:
    """Celery forgets at a warm shutdown, and at a lost connection, what no child has begun."""
    lab.timer.fire(module.POOL_LOOK_S)
    lab.deliver(0, 1, count=4)
    assert [piece.task for piece in lab.pool.running] == ["probe", "write"]
    lab.pool.take().on_done({})
    assert [piece.task for piece in lab.pool.running] == ["write", "write"]


def test_a_worker_whose_children_are_all_busy_does_not_look(lab: Lab) -> None:
    lab.deliver(0, 1, count=4)
    lab.timer.fire(module.POOL_LOOK_S)
    assert [piece.task for piece in lab.pool.running] == ["write", "write"]
    assert (lab.step.pulse and lab.step.pulse.database_why) == "the database has not been looked at yet"


def test_batches_that_do_not_end_say_that_the_database_does_not_answer(lab: Lab) -> None:
    lab.deliver(0, 1, count=4)
    for flight in lab.step.in_flight:
        flight.began_at -= 60
    lab.timer.fire(module.POOL_LOOK_S)
    assert "no batch has ended for 60 s" in str(lab.step.pulse and lab.step.pulse.database_why)


def test_a_worker_that_waits_for_its_look_does_not_stand_still(lab: Lab) -> None:
    """Its only child asks a database that does not answer: a restart would cure nothing."""
    lab.settings.concurrency = 1
    lab.timer.fire(module.POOL_LOOK_S)
    lab.deliver(0, count=4)
    lab.timer.entries.append(SimpleNamespace(seconds=module.POOL_LOOK_S, work=lab.step._look_around))
    lab.timer.fire(module.POOL_LOOK_S)
    pulse = lab.step.pulse
    assert pulse is not None
    assert (len(lab.step.ready), pulse.is_idle_with_work, pulse.could_work) == (1, False, False)


def test_one_that_is_alone_stays_here_over_an_outage_and_is_known_to_be_innocent(lab: Lab) -> None:
    lab.try_alone(0)
    lab.pool.take().on_done(AWAY)
    assert lab.told() == ["pause"]
    lab.timer.fire(3.0)
    lab.pool.take().on_done({})
    assert lab.batches[1:] == [("alone_innocent", [0])]
    lab.pool.take().on_done(STORED)
    assert lab.told() == ["resume", ("ack", [0])]


# -- a child dies or the task raises -----------------------------------------------------------------------------------------


def test_a_batch_whose_child_died_is_tried_in_halves_until_the_killer_is_alone(lab: Lab) -> None:
    lab.deliver(0, 1, 2, 3)
    lab.pool.take().on_lost()
    assert lab.batches[1:] == [("together", [0, 1]), ("together", [2, 3])]
    lab.pool.take(1).on_done(STORED)
    lab.pool.take(0).on_lost()
    assert lab.batches[3:] == [("alone", [0]), ("alone", [1])]
    assert lab.told() == [("ack", [2, 3])]


def test_halves_come_before_what_waited_longer(lab: Lab) -> None:
    lab.deliver(0, 1, 2, 3)
    lab.deliver(*range(4, 7), count=4)
    lab.pool.take().on_lost()
    lab.pool.take().on_done(STORED)
    assert lab.batches[2:] == [("together", [0, 1]), ("together", [2, 3])]


def test_who_died_alone_is_tried_alone_again(lab: Lab) -> None:
    lab.try_alone(0)
    lab.pool.take().on_lost()
    assert (lab.batches[1:], lab.told()) == ([("alone", [0])], [])


def test_a_batch_whose_task_raised_is_tried_in_halves(lab: Lab) -> None:
    lab.deliver(0, 1, 2, 3)
    lab.pool.take().on_failed()
    assert (lab.batches[1:], lab.told()) == ([("together", [0, 1]), ("together", [2, 3])], [])


def test_who_made_the_task_raise_alone_waits_as_if_the_database_were_away(lab: Lab) -> None:
    lab.try_alone(0)
    lab.pool.take().on_failed()
    assert (lab.told(), lab.step.is_paused, lab.pool.running) == (["pause"], True, [])
    lab.timer.fire(3.0)
    lab.pool.take().on_done({})
    assert lab.batches[1:] == [("alone_innocent", [0])]


# -- stopping ----------------------------------------------------------------------------------------------------------------


def test_stop_gives_back_what_waits_and_what_runs_is_finished(lab: Lab) -> None:
    lab.deliver(0, 1, 2, count=4)
    lab.deliver(3)
    for piece in lab.pool.running:
        piece.request.begin()
    lab.step.stop(lab.consumer)
    assert lab.told() == ["stop", ("back", [2]), ("back", [3])]
    assert (lab.timer.entries, len(lab.step.in_flight)) == ([], 2)
    lab.pool.take().on_done(STORED)
    lab.pool.take().on_done(STORED)
    lab.step.shutdown(lab.consumer)
    assert (lab.told(), len(lab.batches), lab.source.woken) == ([("ack", [0]), ("ack", [1]), "close"], 2, 0)


def test_stop_gives_suspects_back_as_suspects_and_the_innocent_as_fresh(lab: Lab) -> None:
    lab.try_alone(0)
    lab.deliver(1, 2, redeliveries=9)
    lab.pool.take().on_done(AWAY)
    assert lab.told() == ["pause", ("suspect", [2])]
    lab.step.stop(lab.consumer)
    told = lab.told()
    assert told[0] == "stop"
    assert sorted(told[1:]) == [("back", [0]), ("suspect", [1])]


def test_an_outage_while_stopping_gives_back_and_neither_pauses_nor_probes(lab: Lab) -> None:
    lab.deliver(0, count=4)
    lab.deliver(1, redeliveries=9)
    for piece in lab.pool.running:
        piece.request.begin()
    lab.step.stop(lab.consumer)
    lab.pool.take().on_done(AWAY)
    lab.pool.take().on_done(AWAY)
    assert lab.told() == ["stop", ("back", [0]), ("back", [1])]
    assert (lab.step.is_paused, lab.timer.entries, lab.step.in_flight) == (False, [], set())


@pytest.mark.parametrize(("end", "word"), [("on_lost", "suspect"), ("on_failed", "back")])
def test_what_fails_while_stopping_goes_back_whole(lab: Lab, end: str, word: str) -> None:
    lab.deliver(0, 1, 2, 3)
    lab.pool.running[0].request.begin()
    lab.step.stop(lab.consumer)
    getattr(lab.pool.take(), end)()
    assert (lab.told(), len(lab.batches)) == (["stop", (word, [0, 1, 2, 3])], 1)


def test_stop_while_paused_forgets_the_pause(lab: Lab) -> None:
    lab.deliver(0, count=4)
    lab.pool.take().on_done(AWAY)
    lab.timer.fire(3.0)
    lab.step.stop(lab.consumer)
    lab.pool.take().on_done(AWAY)
    assert (lab.step.is_paused, lab.timer.entries) == (False, [])
    lab.step.start(lab.consumer)
    lab.deliver(1, count=4)
    assert lab.batches[1:] == [("together", [1])]


# -- a broker that is away ---------------------------------------------------------------------------------------------------


def test_an_ack_that_raises_frees_the_place_and_begins_nothing_until_later(lab: Lab) -> None:
    lab.deliver(0, 1, 2, count=4)
    lab.source.errors["ack"] = ConnectionError("gone")
    with pytest.raises(ConnectionError, match="gone"):
        lab.pool.take().on_done(STORED)
    assert (len(lab.step.in_flight), len(lab.batches), lab.source.woken) == (1, 2, 0)
    lab.timer.fire(module.GO_ON_S)
    assert (lab.batches[2:], lab.source.woken) == ([("together", [2])], 1)


def test_a_lost_connection_takes_back_what_no_child_has_begun(lab: Lab) -> None:
    lab.deliver(0, 1, count=4)
    lab.pool.running[0].request.begin()
    lab.step.stop(lab.consumer)
    assert (lab.told(), len(lab.step.in_flight)) == (["stop", ("back", [1])], 1)
    late = lab.pool.discard(1)
    late.on_done(STORED)
    assert lab.told() == []
    lab.pool.take().on_done(STORED)
    lab.step.start(lab.consumer)
    assert (lab.told(), lab.step.in_flight) == ([("ack", [0]), "start"], set())


def test_what_ended_and_was_never_heard_of_costs_no_place_after_a_reconnect(lab: Lab) -> None:
    lab.deliver(0, 1, count=4)
    for piece in lab.pool.running:
        piece.request.begin()
    lab.pool.take()  # it ended; the event loop was reset before it said so
    lab.step.stop(lab.consumer)
    assert (lab.told(), len(lab.step.in_flight)) == (["stop"], 2)
    lab.step.start(lab.consumer)
    assert (lab.told(), len(lab.step.in_flight)) == ([("abandon", [0]), "start"], 1)
    lab.deliver(2, count=4)
    assert lab.batches[2:] == [("together", [2])]


def test_stop_without_a_broker_leaves_what_waits_to_it(lab: Lab) -> None:
    lab.deliver(0, 1, 2, count=4)
    for piece in lab.pool.running:
        piece.request.begin()
    lab.source.errors["back"] = ConnectionError("gone")
    lab.step.stop(lab.consumer)
    assert lab.told() == ["stop", ("abandon", [2]), "close"]


def test_a_goodbye_that_fails_is_no_error(lab: Lab) -> None:
    lab.source.errors["close"] = ConnectionError("gone")
    lab.step.shutdown(lab.consumer)
    lab.step.shutdown(lab.consumer)
    assert lab.told() == []


# -- beginning ---------------------------------------------------------------------------------------------------------------


def test_another_pool_than_prefork_is_refused(lab: Lab) -> None:
    lab.consumer.pool = SimpleNamespace()
    with pytest.raises(WorkerShutdown):
        lab.step.start(lab.consumer)


@pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="pipes have one size here")
def test_a_new_child_gets_a_pipe_that_holds_much_of_a_batch(lab: Lab) -> None:
    reader, writer = os.pipe()
    try:
        lab.pool._pool._pool.append(SimpleNamespace(inqW_fd=writer))
        lab.timer.fire(module.POOL_LOOK_S)
        assert fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ) == 1024 * 1024
    finally:
        os.close(reader)
        os.close(writer)


def test_a_broker_that_cannot_be_used_ends_the_worker(lab: Lab) -> None:
    lab.source.errors["start"] = ConfigurationError("Redis Cluster")
    with pytest.raises(WorkerShutdown):
        lab.step.start(lab.consumer)


def test_what_is_over_is_freed_at_once(lab: Lab) -> None:
    """Megabytes of messages do not wait for the garbage collector, although a request knows who waits for its end."""
    gc.disable()
    try:
        lab.deliver(1, 2, 3, 4)
        lab.pool.running[0].request.ending = lab.pool.running[0].ending
        flight = weakref.ref(lab.pool.running[0].ending)
        lab.pool.take().on_done(STORED)
        assert flight() is None
    finally:
        gc.enable()


def test_stop_before_start_is_nothing() -> None:
    lab = Lab()
    lab.step.stop(lab.consumer)
    lab.step.shutdown(lab.consumer)
    assert (lab.source.told, lab.consumer.ingest_step) == ([], lab.step)


def test_the_step_tells_operators_what_it_holds(lab: Lab) -> None:
    lab.deliver(0, 1, 2, count=4)
    lab.deliver(3)
    told = lab.step.info(lab.consumer)["penstock"]
    assert {"is_paused": False, "buffered_bytes": 10, "ready_batches": 1, "running_batches": 2}.items() <= told.items()


# -- metrics -----------------------------------------------------------------------------------------------------------------


def told(lab: Lab, name: str, **labels: str) -> float | None:
    return lab.step.metrics.registry.get_sample_value(f"penstock_{name}", labels)


def batches(lab: Lab) -> dict[tuple[str, str], float]:
    """Those that have ended, by trigger and end."""
    (family,) = (family for family in lab.step.metrics.registry.collect() if family.name == "penstock_batches")
    return {(sample.labels["trigger"], sample.labels["end"]): sample.value for sample in family.samples if sample.value}


def test_what_a_child_returns_is_counted(lab: Lab) -> None:
    lab.deliver(0, 1, 2, 3)
    measures = Measures(Counter({("translation.task", "stored"): 5, ("unknown", "held"): 2}), Lag((0, 3, 4, *[0] * 11), 0.5))
    lab.pool.take().on_done({"stored": 5, "held": 2, "ms": {"decode": 20.0, "commit": 2.0}, "measures": measures.line()})

    assert told(lab, "messages_total") == 4
    assert told(lab, "events_total", type="translation.task", outcome="stored") == 5
    assert told(lab, "events_total", type="unknown", outcome="held") == 2
    assert told(lab, "events_total", type="translation.task", outcome="dead") == 0, "there before the first one"
    assert (batches(lab), told(lab, "batch_events_sum")) == ({("rows", "written"): 1}, 7)
    assert told(lab, "batch_stage_seconds_sum", stage="decode") == 0.02
    lags = [told(lab, "commit_lag_seconds_bucket", le=bound) for bound in ("0.025", "0.05", "0.1", "+Inf")]
    assert (lags, told(lab, "commit_lag_seconds_sum")) == ([0, 3, 7, 7], 0.5)
    took_s = told(lab, "batch_seconds_sum")
    assert took_s is not None
    assert 0 < took_s < 300
    committed_at = told(lab, "worker_last_batch_timestamp_seconds")
    assert committed_at is not None
    assert committed_at > 1_700_000_000


def test_batches_are_counted_by_how_they_end(lab: Lab) -> None:
    lab.deliver(0, 1, 2, 3)
    lab.pool.take().on_lost()
    assert (batches(lab), told(lab, "worker_lost_children_total")) == ({("rows", "lost"): 1}, 1)
    lab.pool.take().on_failed()
    lab.pool.take().on_done(AWAY)
    assert batches(lab) == {("rows", "lost"): 1, ("suspect", "failed"): 1, ("suspect", "away"): 1}
    assert (told(lab, "worker_pauses_total"), told(lab, "worker_paused")) == (1, 1)


def test_what_is_committed_counts_even_if_the_broker_does_not_hear_it(lab: Lab) -> None:
    lab.deliver(0, 1, 2, 3)
    lab.source.errors["ack"] = ConnectionError("the broker is gone")
    with pytest.raises(ConnectionError):
        lab.pool.take().on_done({"stored": 4, "measures": "translation.task/stored=4"})
    assert (batches(lab), told(lab, "events_total", type="translation.task", outcome="stored")) == ({("rows", "written"): 1}, 4)


def test_a_scrape_sees_what_the_step_holds(lab: Lab) -> None:
    def state() -> list[float | None]:
        held = [told(lab, f"worker_{name}") for name in ("held_messages", "buffered_bytes", "consuming", "paused", "stalled")]
        return [*held, *(told(lab, "worker_batches", state=name) for name in ("ready", "running"))]

    assert state() == [0, 0, 0, 0, 0, 0, 0]
    lab.deliver(*range(13))
    lab.deliver(13, size=7)
    lab.step._look_around()
    assert state() == [14, 17, 1, 0, 0, 1, 2]
    lab.step.stall = Stall(0.0, "for a test")
    assert state()[4] == 1
    lab.pool.take(1).on_done(AWAY)
    lab.step._look_around()
    assert state() == [4, 0, 0, 1, 1, 0, 1]
    lab.step.stop(lab.consumer)
    assert state()[2] == 0
