"""Who is live and who is ready: the rules, and what a worker knows of its database, with a clock to turn by hand."""

from __future__ import annotations

import pytest

from penstock_worker.ingest.database_look import DatabaseLook
from penstock_worker.ingest.readiness import PULSE_OLD_S, WATCH_SILENT_S, Facts, check_live, check_ready
from penstock_worker.ingest.stall import Pulse, Stall

NOW, EVERY_S = 1_000.0, 10.0
AWAY = "the database is away: no route"


def facts(pulse=True, at=NOW, **others):
    parts = {name: others.pop(name) for name in ("paused_why", "database_why", "broker_why") if name in others}
    said = Pulse(**{"at": at, "consumed": 0, "paused_why": None, "could_work": True, **parts}) if pulse else None
    return Facts(**{"now": NOW, "looked_at": NOW, "pulse": said, "had_pulse": True, **others})


@pytest.mark.parametrize(
    ("case", "is_live", "reasons"),
    [
        ({}, True, ()),
        ({"pulse": False, "had_pulse": False}, True, ("it starts, and has not connected to the broker yet",)),
        ({"pulse": False}, True, ("it connects to the broker again",)),
        ({"pulse": False, "is_stopping": True}, True, ("it is stopping",)),
        ({"paused_why": AWAY, "database_why": AWAY}, True, (f"paused, {AWAY}",)),
        ({"database_why": "the database is not migrated"}, True, ("the database is not migrated",)),
        ({"broker_why": "the broker is away: refused"}, True, ("the broker is away: refused",)),
        ({"is_broker_silent": True}, True, ("the broker does not answer",)),
        ({"at": NOW - PULSE_OLD_S}, True, ()),
        ({"at": NOW - PULSE_OLD_S - 1}, True, ("the event loop has not turned for 11 s",)),
        ({"at": NOW - 40, "stall": Stall(0.0, "it hangs")}, False, ("it hangs",)),
        ({"stall": Stall(0.0, "it is deaf"), "paused_why": AWAY}, False, ("it is deaf", f"paused, {AWAY}")),
        ({"looked_at": NOW - WATCH_SILENT_S}, True, ()),
        ({"looked_at": NOW - 121}, False, ("the thread that watches the loop has not looked for 121 s",)),
    ],
)
def test_who_waits_is_not_ready_and_who_hangs_is_not_live(case, is_live, reasons):
    assert (check_live(facts(**case)).is_ok, check_ready(facts(**case)).reasons) == (is_live, reasons)


class Lab:
    """A worker without a child: the test answers the looks."""

    def __init__(self):
        self.now, self.asked, self.away, self.lost = 0.0, [], [], 0
        self.look = DatabaseLook(EVERY_S, self.away.append, self.note_lost, lambda: None, clock=lambda: self.now)
        self.look.begin(self)

    def submit(self, args, _argsrepr, ending):
        self.asked.append((args, ending))

    def note_lost(self):
        self.lost += 1

    def turn(self, seconds=0.0):
        """How many looks have been asked for in the time, at four turns a second."""
        before = len(self.asked)
        for _ in range(max(1, int(4 * seconds))):
            self.now += seconds and 0.25
            self.look.look_if_due()
        return len(self.asked) - before

    def answer(self, result):
        self.asked[-1][1].on_done(result)


@pytest.fixture
def lab():
    return Lab()


def test_it_looks_at_once_and_then_now_and_then(lab):
    assert (lab.turn(), lab.look.why()) == (1, "the database has not been looked at yet")
    lab.answer({"ok": True})

    assert (lab.look.why(), lab.turn(9.75), lab.turn(0.25)) == (None, 0, 1)
    assert [args for args, _ in lab.asked] == [(True, True), (True, False)]


def test_while_batches_are_written_it_does_not_look(lab):
    lab.turn()
    lab.answer({"ok": True})
    for _ in range(20):
        assert lab.turn(5) == 0
        lab.look.note_reached()


def test_a_batch_does_not_tell_whether_all_migrations_are_there(lab):
    lab.look.note_reached()
    assert (lab.look.why(), lab.turn()) == ("the database has not been looked at yet", 1)
    lab.answer({"ok": True, "unmigrated": "run `penstock migrate up`"})
    lab.look.note_reached()

    assert (lab.look.why(), lab.turn(10)) == ("run `penstock migrate up`", 1)
    lab.answer({"ok": True})
    assert lab.look.why() is None


def test_a_database_that_is_away_is_told_until_it_is_reached(lab):
    lab.turn()
    lab.answer({"away": "no route"})
    assert (lab.away, lab.look.why()) == (["no route"], AWAY)

    lab.look.note_reached()  # a probe of the pause, which does not ask for migrations
    lab.look.look_soon()
    assert (lab.look.why(), lab.turn()) == ("the database has not been looked at yet", 1)
    lab.answer({"ok": True})
    lab.look.note_away("a batch met it")
    assert lab.look.why() == "the database is away: a batch met it"
    lab.look.note_reached()
    assert lab.look.why() is None


def test_a_database_that_does_not_answer(lab):
    lab.turn()
    lab.answer({"ok": True})
    lab.turn(10)

    assert (lab.turn(10), lab.look.why()) == (0, None)
    assert (lab.turn(1), lab.look.why()) == (0, "the database has not answered for 11 s")
    lab.answer({"ok": True})
    assert lab.look.why() is None


def test_a_database_that_answers_no_batch(lab):
    """While all children have one there is no look."""
    lab.look.note_reached()
    lab.turn()
    lab.answer({"ok": True})

    lab.now += 100
    began = lab.now
    lab.now += 20
    assert lab.look.why(began) is None
    lab.now += 1
    assert lab.look.why(began) == "no batch has ended for 21 s: the database does not answer, or is slow"
    lab.look.note_reached()  # by another batch
    assert lab.look.why(began) is None


def test_a_look_that_fails_says_nothing_and_is_made_again(lab):
    lab.turn()
    lab.answer({"ok": True})
    for end in ("on_lost", "on_failed"):
        assert lab.turn(10) == 1
        getattr(lab.asked[-1][1], end)()
    assert (lab.look.why(), lab.lost, lab.away) == (None, 1, [])


def test_what_was_asked_before_a_reconnect_is_not_waited_for(lab):
    lab.turn()
    late = lab.asked[-1][1]
    lab.look.begin(lab)
    assert lab.turn() == 1
    late.on_done({"away": "long ago"})
    assert (lab.away, lab.look.why()) == ([], "the database has not been looked at yet")
