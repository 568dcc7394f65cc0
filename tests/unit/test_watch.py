"""The watch: one error per episode, a health file that others can read, and nothing that can end it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from penstock_worker.health import STALE_AFTER_S, Health, read_health, write_health
from penstock_worker.ingest.stall import Pulse
from penstock_worker.ingest.watch import Watch, Who, format_stacks

QUEUE = "penstock.events"


class Lab:
    """A watch whose judge says what the test wants."""

    def __init__(self, folder):
        self.folder, self.now, self.why = folder, 5_000.0, None
        self.step = SimpleNamespace(pulse=None, stall=None)
        settings = SimpleNamespace(health_folder=folder, probe_port=None)
        judge = SimpleNamespace(look=lambda _now, _pulse: self.why, is_broker_silent=False)
        who = Who("w/1@host", "ingest", QUEUE, "its messages go back")
        self.watch = Watch(settings, who, lambda: self.step, judge, clock=lambda: self.now, wall=lambda: self.now)

    def look(self, why=None, *, is_connected=True, **facts):
        self.now += 1
        self.why = why
        self.step.pulse = Pulse(**{"at": self.now, "consumed": 7, "paused_why": None, "could_work": True, **facts})
        if not is_connected:
            self.step.pulse = None
        self.watch.run_once()

    @property
    def health(self):
        (health,) = read_health(self.folder, QUEUE)
        return health


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path / "health")


def messages(caplog):
    return [(record.levelname, record.action) for record in caplog.records]


def test_an_episode_is_told_once(lab, caplog):
    caplog.set_level(logging.INFO)
    lab.look()
    lab.look("the loop hangs for 30 s")
    lab.look("the loop hangs for 31 s")
    since = lab.step.stall.since
    ill = lab.health
    lab.look()
    lab.look("again")

    assert messages(caplog) == [("ERROR", "stalled"), ("WARNING", "going_on"), ("ERROR", "stalled")]
    assert "test_an_episode_is_told_once" in caplog.records[0].getMessage()  # a stack
    assert (since, ill.is_stalled, ill.stalled_since, ill.stalled_why) == (5_002.0, True, 5_002.0, "the loop hangs for 31 s")
    assert lab.step.stall.why == "again"


def test_its_health_is_written_now_and_then(lab):
    written = []
    for _ in range(12):
        lab.look()
        written.append(lab.health.written_at)

    assert sorted(set(written)) == [5_001.0, 5_006.0, 5_011.0]
    assert (lab.health.worker, lab.health.consumed_messages, lab.health.is_consuming) == ("w/1@host", 7, True)
    assert lab.health.trouble(lab.now) is None
    assert "frozen" in (lab.health.trouble(lab.now + STALE_AFTER_S) or "")
    lab.watch.end()
    assert read_health(lab.folder, QUEUE) == []


def test_without_a_step_or_a_pulse_it_is_not_consuming(lab):
    lab.look(is_connected=False)

    assert (lab.health.is_consuming, lab.health.paused_why) == (False, None)


def test_news_of_its_readiness_are_written_at_once(lab):
    told = []
    for facts in ({"is_connected": False}, {}, {"database_why": "the database is away: no route"}, {}):
        lab.look(**facts)
        told.append((lab.health.not_ready, lab.health.database_why))

    assert told == [
        (("it starts, and has not connected to the broker yet",), None),
        ((), None),
        (("the database is away: no route",), "the database is away: no route"),
        ((), None),
    ]


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    lab = Lab(tmp_path / "file")
    for _ in range(20):
        lab.look()
    lab.look("it hangs")

    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    assert lab.step.stall.why == "it hangs"


def test_only_the_files_of_those_who_may_live_count(tmp_path):
    """Not those of a process that is gone, even if its id has been given again, of another queue, or of another version."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    facts = {"started_at": 1.0, "written_at": 2.0, "is_consuming": True, "paused_why": None, "consumed_messages": 0}
    for name, changes in {
        "here": {},
        "gone": {"pid": gone.pid},
        "gone, id taken": {"pid": os.getppid(), "pid_since": "1"},
        "other": {"queue": "q"},
        "jobs of all": {"queue": "penstock.maintenance", "does": "maintenance"},
    }.items():
        write_health(tmp_path, Health(**{"worker": name, "queue": QUEUE, **facts, **changes}))
    (tmp_path / "old.json").write_text(json.dumps({"worker": "old"}))
    (tmp_path / "broken.json").write_text("{")

    assert [(health.worker, health.pid) for health in read_health(tmp_path, QUEUE)] == [
        ("here", os.getpid()),
        ("jobs of all", os.getpid()),
    ]
    assert read_health(tmp_path / "nowhere", QUEUE) == []


def test_the_main_thread_comes_first():
    assert next(iter(format_stacks())) == "--- MainThread"
