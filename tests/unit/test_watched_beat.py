"""A beat says how it is: leading or standing by it lives, and one that does not look at the schedule any more hangs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from prometheus_client import generate_latest

from penstock_worker.maintenance.schedule.watched import CUT_OFF_S, SILENT_S, WatchedBeat


class Beat:
    """Ticks as the test says."""

    def __init__(self):
        self.defaults, self.leads, self.away, self.due = {"flush": None}, False, {}, []
        self.cuts = 0

    def find_away(self, what):
        return self.away.get(what)

    def tick(self):
        for name in self.due:
            self.on_sent(name)
        return 2.0

    def cut_off(self):
        self.cuts += 1

    def close(self):
        self.leads = False


class Lab:
    def __init__(self, folder):
        self.now, self.beat = 1_000.0, Beat()
        settings = SimpleNamespace(queue="penstock.events", health_folder=folder, probe_port=None)
        self.watched = WatchedBeat(settings, self.beat, clock=lambda: self.now, wall=lambda: 5.0)

    def look(self, seconds=1.0):
        self.now += seconds
        self.watched.watch.run_once()
        return self.watched.watch.live().reasons, self.watched.watch.ready().reasons


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


def test_it_is_ready_once_it_has_looked(lab):
    assert lab.look() == ((), ("the database has not been looked at yet",))
    assert lab.watched.tick() == 2.0
    assert lab.look() == ((), ())


def test_what_it_needs_and_has_not_got_keeps_it_from_being_ready_only(lab):
    lab.beat.away = {"database": "the database is away", "broker": "the broker is away"}
    lab.watched.tick()
    assert lab.look() == ((), ("the database is away", "the broker is away"))


def test_a_beat_that_does_not_look_hangs(lab, caplog):
    lab.watched.tick()
    assert lab.look(SILENT_S)[0] == ()
    hangs = "it has not looked at the schedule for 121 s"
    assert lab.look() == ((hangs,), (hangs,))
    lab.watched.tick()
    assert lab.look() == ((), ())
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        f"this beat stands still: {hangs}",
        f"this beat goes on, 0 s after: {hangs}",
    ]


def test_a_database_that_never_answers_is_cut_off_once(lab):
    """Then the tick fails, as when the database is away; else the beat would be restarted for it, again and again."""
    lab.watched.tick()
    lab.look(CUT_OFF_S)
    assert lab.beat.cuts == 0
    lab.look()
    lab.look()
    assert lab.beat.cuts == 1
    lab.watched.tick()
    lab.look(CUT_OFF_S + 1)
    assert lab.beat.cuts == 2


def test_its_last_look_is_not_in_1970_before_the_first(lab):
    assert "penstock_beat_last_tick_timestamp_seconds 5.0\n" in generate_latest(lab.watched._registry).decode()


def test_it_counts_what_it_sends(lab):
    lab.beat.due = ["flush", "report"]
    lab.beat.leads = True
    for _ in range(2):
        lab.watched.tick()

    told = generate_latest(lab.watched._registry).decode().splitlines()
    assert [line for line in told if not line.startswith("#")] == [
        'penstock_beat_runs_sent_total{name="flush"} 2.0',
        'penstock_beat_runs_sent_total{name="report"} 2.0',
        "penstock_beat_leading 1.0",
        "penstock_beat_last_tick_timestamp_seconds 5.0",
    ]
    assert lab.watched.pulse.consumed == 4
