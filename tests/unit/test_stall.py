"""What standing still is: the rules, with a clock to turn by hand."""

from __future__ import annotations

import pytest

from penstock_worker.ingest.stall import Judge, Pulse

AFTER_S, LIMIT_S = 30.0, 300.0


class Depth:
    def __init__(self):
        self.answer = 0
        self.asked = 0

    def ask(self):
        self.asked += 1
        return self.answer

    def close(self):
        pass


class Lab:
    """A worker whose loop turns, and a judge who looks once a second."""

    def __init__(self):
        self.depth = Depth()
        self.judge = Judge(AFTER_S, LIMIT_S, self.depth)
        self.now = 1_000.0

    def turn(self, seconds, *, hangs=False, is_connected=True, **facts):
        """Look every second; the answers, without repetitions."""
        found = []
        for _ in range(int(seconds)):
            self.now += 1
            if not hangs:
                self.pulse = pulse(self.now, **facts) if is_connected else None
            why = self.judge.look(self.now, self.pulse)
            if not found or (found[-1] is None) != (why is None):
                found.append(why)
        return found


def pulse(at, consumed=0, paused_why=None, could_work=True, is_idle_with_work=False, oldest_batch_at=None):
    return Pulse(at, consumed, paused_why, could_work, is_idle_with_work, oldest_batch_at)


@pytest.fixture
def lab():
    return Lab()


def test_a_worker_with_nothing_to_do_does_not_stand_still(lab):
    assert lab.turn(1_000) == [None]
    assert lab.depth.asked > 0


def test_a_busy_worker_asks_nobody(lab):
    lab.depth.answer = 1_000_000
    for consumed in range(500):
        assert lab.turn(1, consumed=consumed) == [None]
    assert lab.depth.asked == 0


def test_a_deaf_worker(lab):
    """Messages wait, there is room, and none comes; it is over with the first that does."""
    lab.turn(10, consumed=5)
    lab.depth.answer = 12

    found = lab.turn(60, consumed=5)

    assert found[0] is None
    assert found[1].startswith("12 messages wait in the queue, and none has been taken for 30 s")
    assert lab.turn(5, consumed=6) == [None]


def test_messages_must_have_waited_themselves(lab):
    """A worker that was idle for long is not deaf because of the first message that comes."""
    lab.turn(500)
    lab.depth.answer = 1
    assert lab.turn(29) == [None]
    lab.depth.answer = 0
    assert lab.turn(100) == [None]


@pytest.mark.parametrize("facts", [{"paused_why": "the database is away"}, {"could_work": False}, {"is_connected": False}])
def test_paused_full_or_disconnected_is_not_deaf(lab, facts):
    """And when that ends, the worker has as long as ever."""
    lab.depth.answer = 12
    assert lab.turn(200, **facts) == [None]
    assert lab.turn(29) == [None]
    assert len(lab.turn(20)) == 2


def test_a_broker_that_does_not_answer_is_away(lab):
    lab.depth.answer = None
    assert lab.turn(200) == [None]
    assert lab.judge.is_broker_silent
    assert lab.turn(200, hangs=True) == [None]
    assert lab.judge.is_broker_silent
    lab.depth.answer = 0
    lab.turn(20)
    assert not lab.judge.is_broker_silent


def test_a_loop_that_hangs(lab):
    lab.turn(10)

    found = lab.turn(40, hangs=True)

    assert found == [None, "the event loop has not turned for 31 s"]
    assert lab.turn(2) == [None]


def test_a_loop_has_time_to_turn_when_a_frozen_broker_is_back(lab):
    """It still hangs at the broker when that answers the watch already."""
    lab.turn(10)
    lab.depth.answer = None
    lab.turn(60, hangs=True)
    lab.depth.answer = 0
    assert lab.turn(AFTER_S, hangs=True) == [None]
    assert lab.turn(1, hangs=True) == ["the event loop has not turned for 91 s"]


def test_a_loop_that_was_left_in_order_does_not_hang(lab):
    """At a lost connection and at the end there is no pulse at all."""
    lab.turn(10)
    assert lab.turn(200, is_connected=False) == [None]


def test_a_batch_that_nobody_ends(lab):
    """Also while the worker takes more, and while it is paused."""
    began = lab.now
    assert lab.turn(LIMIT_S + AFTER_S, oldest_batch_at=began, could_work=False) == [None]
    assert lab.turn(1, oldest_batch_at=began, paused_why="the database is away") == [
        "a batch has been running for 331 s, the limit is 300 s"
    ]
    assert lab.turn(1) == [None]


def test_messages_that_no_child_is_given(lab):
    """However empty the queue is."""
    found = lab.turn(40, is_idle_with_work=True)

    assert found[1].startswith("messages are here, and none has been given to a pool process for 30 s")
