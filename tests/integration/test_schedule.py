"""Beats on a real PostgreSQL: who leads, that a due run is sent once, and that an edit is seen. The time is injected."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from penstock_worker.errors import BrokerAway
from penstock_worker.maintenance.schedule.scheduler import defaults_of
from penstock_worker.maintenance.schedule.sender import RunRefused
from penstock_worker.maintenance.schedule.tick import LOOK_S, SILENCE_S, Beat
from penstock_worker.settings import Settings
from penstock_worker.store import schedule
from penstock_worker.store.connection import connect_with
from penstock_worker.store.schedule import Default, Row

T = datetime(2027, 3, 1, 12, tzinfo=UTC)
TASK = "shop.report"


def at(seconds: float) -> datetime:
    return T + timedelta(seconds=seconds)


class Broker:
    """Keeps what beats send; it can be away, refuse a task, or do something before it takes a message."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any, datetime | None]] = []
        self.is_away = self.breaks = False
        self.refuses: set[str] = set()
        self.before: Callable[[], None] = lambda: None

    @property
    def names(self) -> list[str]:
        names = [name for name, _, _ in self.sent]
        self.sent.clear()
        return names

    def knows(self, task: str) -> bool:
        return task == TASK or task.startswith("penstock.maintain.")

    @contextmanager
    def open(self) -> Iterator[Callable[[Row, datetime | None], None]]:
        if self.is_away:
            raise BrokerAway("nobody listens")
        yield self._send

    def _send(self, row: Row, expires: datetime | None) -> None:
        self.before()
        if self.breaks:
            raise BrokerAway("the line broke")
        if row.name in self.refuses:
            raise RunRefused("not this one")
        if row.arguments == {"wrong": 1}:
            raise TypeError("report() got an unexpected keyword argument 'wrong'")
        self.sent.append((row.name, row.arguments, expires))


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def new_beat(database_url: str, broker: Broker) -> Iterator[Callable[..., Beat]]:
    beats: list[Beat] = []

    def make(who: str = "web1:1", **defaults: Default) -> Beat:
        beats.append(Beat(connect_with(Settings(database_url=database_url)), broker, defaults, who))
        return beats[-1]

    yield make
    for beat in beats:
        beat.close()


@pytest.fixture
def beat(new_beat: Callable[..., Beat]) -> Beat:
    return new_beat()


@pytest.fixture
def person(database_url: str) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    """Edits by SQL, as somebody would in psql."""
    with psycopg.connect(database_url, autocommit=True, options="-c timezone=UTC") as connection:

        def run(statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

        yield run


def add(person: Callable[..., Any], name: str = "report", **columns: Any) -> None:
    columns = {"name": name, "task": TASK, "every_s": 60, **columns}
    if "cron" in columns:
        columns["every_s"] = None
    person(
        f"INSERT INTO penstock.schedule ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))})", *columns.values()
    )


def row(person: Callable[..., Any], *columns: str, name: str = "report") -> tuple[Any, ...]:
    found: tuple[Any, ...] = person(f"SELECT {', '.join(columns)} FROM penstock.schedule WHERE name = %s", name)[0]
    return found


def end(beat: Beat, person: Callable[..., Any]) -> None:
    """Close the leader, and wait until the server has noticed."""
    beat.close()
    deadline = time.monotonic() + 60
    while person(
        "SELECT FROM pg_locks JOIN pg_database d ON d.oid = database WHERE datname = current_database()"
        " AND locktype = 'advisory'"
    ):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_row_is_planned_sent_and_planned_again(beat: Beat, broker: Broker, person: Any) -> None:
    add(person, arguments='{"days": 3}')
    beat.tick(at(0))
    assert (row(person, "next_run", "last_run"), broker.names) == ((at(60), None), [])
    beat.tick(at(59))
    assert broker.names == []

    pause = beat.tick(at(60.2))

    assert broker.sent == [("report", {"days": 3}, at(120))]
    assert row(person, "next_run", "last_run", "last_result") == (at(120), at(60.2), {"state": "sent"})
    assert pause == LOOK_S


def test_it_wakes_up_when_the_next_one_is_due(beat: Beat, person: Any) -> None:
    add(person)
    beat.tick(at(0))
    assert beat.tick(at(59.5)) == pytest.approx(0.5)
    assert beat.tick(at(59.999)) == pytest.approx(0.05)
    assert beat.tick(at(0)) == LOOK_S


def test_what_was_missed_is_sent_once(beat: Beat, new_beat: Any, broker: Broker, person: Any) -> None:
    """No beat ran for a week."""
    add(person)
    add(person, "nightly", cron="0 3 * * *")
    beat.tick(at(0))
    end(beat, person)
    later = new_beat("web2:2")
    for second in range(5):
        later.tick(at(7 * 86_400 + second))
    assert sorted(broker.names) == ["nightly", "report"]
    assert row(person, "next_run", name="nightly") == (datetime(2027, 3, 9, 3, tzinfo=UTC),)


def test_a_run_waits_for_a_worker_no_longer_than_until_the_next_one(beat: Beat, broker: Broker, person: Any) -> None:
    add(person, cron="0 3 * * *")
    add(person, "yearly", cron="0 3 2 3 *")
    beat.tick(at(0))
    due = datetime(2027, 3, 2, 3, tzinfo=UTC)
    beat.tick(due)
    assert broker.sent == [("report", {}, due + timedelta(days=1)), ("yearly", {}, due + timedelta(days=30))]


def test_one_leads_and_the_other_follows_at_its_end(new_beat: Any, broker: Broker, person: Any, database_url: str) -> None:
    first, second = new_beat("web1:1"), new_beat("web2:2")
    add(person)
    for beat in (first, second):
        beat.tick(at(0))
    assert (first.leads, second.leads) == (True, False)
    with connect_with(Settings(database_url=database_url))() as reader:
        assert [(beat.who, beat.leads) for beat in schedule.list_beats(reader)] == [("web1:1", True), ("web2:2", False)]
    second.tick(at(60))
    assert broker.names == []

    end(first, person)

    second.tick(at(60))
    assert (second.leads, broker.names) == (True, ["report"])


def test_a_leader_whose_connection_is_cut_sends_nothing_until_it_leads_again(
    new_beat: Any, broker: Broker, person: Any, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = new_beat("web1:1"), new_beat("web2:2")
    add(person)
    first.tick(at(0))
    person("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'penstock beat web1:1'")
    second.tick(at(1))

    assert first.tick(at(60)) == LOOK_S
    first.tick(at(60))
    assert (first.leads, second.leads, broker.names) == (False, True, [])
    assert [line for line in caplog.messages if "the database is away" in line] != []

    second.tick(at(60))
    assert broker.names == ["report"]


def test_of_two_that_both_believe_to_lead_one_sends(new_beat: Any, broker: Broker, person: Any, monkeypatch: Any) -> None:
    """The lock is taken out of the game: the claim alone decides, also between beats that looked at the same moment."""
    monkeypatch.setattr(schedule, "_LEADS", "true")
    add(person, every_s=1)
    beats = [new_beat(f"web{n}:1") for n in range(4)]
    for beat in beats:
        beat.tick(at(0))
        assert beat.leads
    look, gate = schedule.look, threading.Barrier(len(beats))

    def look_together(connection: Any, now: datetime | None = None) -> Any:
        found = look(connection, now)
        gate.wait(60)
        return found

    monkeypatch.setattr(schedule, "look", look_together)

    def run(beat: Beat) -> None:
        for second in range(1, 21):
            beat.tick(at(second))

    threads = [threading.Thread(target=run, args=[beat]) for beat in beats]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [expires for _, _, expires in sorted(broker.sent, key=lambda sent: sent[2])] == [
        at(second) for second in range(2, 22)
    ]


def test_a_claim_without_the_lock_is_none(beat: Beat, new_beat: Any, person: Any) -> None:
    add(person)
    beat.tick(at(0))
    other = new_beat("web2:2")
    other.tick(at(0))
    due = Row(**dict(zip(("name", "next_run", "task"), [*row(person, "name", "next_run"), TASK], strict=True)))
    assert not schedule.claim(other._connection, due, at(60), at(120), "every 60 s")
    assert not schedule.claim(beat._connection, replace(due, next_run=at(59)), at(60), at(120), "every 60 s")
    assert schedule.claim(beat._connection, due, at(60), at(120), "every 60 s")


def test_edits_are_seen_at_the_next_look(beat: Beat, broker: Broker, person: Any) -> None:
    add(person)
    beat.tick(at(0))
    person("UPDATE penstock.schedule SET every_s = 5, arguments = '[1]'")
    beat.tick(at(2))
    assert row(person, "next_run") == (at(7),)
    beat.tick(at(7))
    assert broker.sent.pop() == ("report", [1], at(12))

    person("UPDATE penstock.schedule SET is_enabled = false")
    beat.tick(at(60))
    assert (broker.names, row(person, "next_run")) == ([], (None,))

    person("UPDATE penstock.schedule SET is_enabled = true, every_s = NULL, cron = '0 14 * * *', time_zone = 'Europe/Berlin'")
    beat.tick(at(62))
    assert row(person, "next_run") == (datetime(2027, 3, 1, 13, tzinfo=UTC),)

    person("UPDATE penstock.schedule SET next_run = %s", at(62))
    beat.tick(at(64))
    assert broker.names == ["report"]


def test_a_row_removed_or_disabled_while_it_is_due_is_not_sent(
    beat: Beat, broker: Broker, person: Any, monkeypatch: Any
) -> None:
    add(person, "other")
    add(person)
    beat.tick(at(0))
    broker.before = lambda: person("UPDATE penstock.schedule SET is_enabled = false WHERE name = 'report'")
    beat.tick(at(60))
    assert broker.names == ["other"]


WRONG = {
    "bad_cron": {"cron": "0 25 * * *"},
    "bad_zone": {"cron": "0 3 * * *", "time_zone": "Mars/Olympus"},
    "bad_task": {"task": "shop.reprot"},
    "bad_words": {"arguments": '{"wrong": 1}'},
    "bad_digits": {"arguments": f'{{"days": {"9" * 5_000}}}'},
    "bad_depth": {"arguments": "[" * 3_000 + "]" * 3_000},
}


def test_wrong_rows_stop_nobody_and_are_told_once(
    beat: Beat, broker: Broker, person: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for name, columns in WRONG.items():
        add(person, name, **columns)
    add(person)
    beat.tick(at(0))
    for second in (60, 61, 62):
        beat.tick(at(second))

    assert broker.names == ["report"]
    told = dict(person("SELECT name, last_result FROM penstock.schedule WHERE name <> 'report'"))
    assert {name: result["state"] for name, result in told.items()} == {
        "bad_cron": "refused",
        "bad_depth": "refused",
        "bad_digits": "refused",
        "bad_task": "refused",
        "bad_words": "failed",
        "bad_zone": "refused",
    }
    assert told["bad_zone"]["error"] == "no time zone 'Mars/Olympus' is known here: use a name like Europe/Berlin or UTC"
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert sorted(line.split()[0] for line in lines) == sorted(WRONG)

    person("UPDATE penstock.schedule SET time_zone = 'UTC' WHERE name = 'bad_zone'")
    beat.tick(at(70))
    assert row(person, "next_run", "last_result", name="bad_zone") == (datetime(2027, 3, 2, 3, tzinfo=UTC), None)


@pytest.mark.parametrize(
    "edit",
    [
        "every_s = 'NaN'",
        "every_s = 'Infinity'",
        "every_s = 0",
        "cron = '0 3 * * *'",
        "arguments = '7'",
        "seed = '7'",
        "last_result = 'null'",
        "next_run = 'infinity'",
        "last_run = '20000-01-01'",
    ],
)
def test_what_no_beat_could_read_is_refused_at_the_edit(edit: str, person: Any) -> None:
    add(person)
    with pytest.raises(psycopg.errors.CheckViolation):
        person(f"UPDATE penstock.schedule SET {edit}")


def test_a_row_that_somebody_has_locked_holds_up_no_other(beat: Beat, broker: Broker, person: Any, database_url: str) -> None:
    add(person)
    add(person, "other")
    beat.tick(at(0))
    with psycopg.connect(database_url) as somebody:
        somebody.execute("UPDATE penstock.schedule SET arguments = '{\"a\": 1}' WHERE name = 'report'")
        beat.tick(at(60))
        assert (broker.names, beat.leads) == (["other"], True)
    beat.tick(at(62))
    assert broker.names == ["report"]


def test_while_the_broker_is_away_runs_stay_due(
    beat: Beat, broker: Broker, person: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    add(person)
    beat.tick(at(0))
    broker.is_away = True
    assert [beat.tick(at(second)) for second in (60, 62, 64)] == [LOOK_S] * 3
    assert row(person, "next_run", "last_run") == (at(60), None)

    broker.is_away = False
    beat.tick(at(66))

    assert broker.names == ["report"]
    lines = [line for line in caplog.messages if "the broker" in line]
    assert lines == ["the broker is away, what is due is sent when it is back: nobody listens", "the broker is back"]


def test_a_run_that_could_not_be_sent_is_given_back(beat: Beat, new_beat: Any, broker: Broker, person: Any) -> None:
    add(person)
    beat.tick(at(0))
    broker.breaks = True
    beat.tick(at(60))
    assert row(person, "next_run", "last_run", "last_result") == (
        at(60),
        None,
        {"state": "not_sent", "error": "the line broke"},
    )
    broker.breaks = False
    beat.tick(at(62))
    assert broker.names == ["report"]


def test_a_run_is_given_back_even_if_the_lead_was_lost_meanwhile(
    beat: Beat, new_beat: Any, broker: Broker, person: Any
) -> None:
    """The broker froze for so long that the server ended this beat's session; another leads, and sends it."""
    second = new_beat("web2:2")
    add(person)
    beat.tick(at(0))

    def freeze() -> None:
        person("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'penstock beat web1:1'")
        second.tick(at(61))

    broker.before, broker.breaks = freeze, True
    beat.tick(at(60))
    assert (second.leads, row(person, "next_run")) == (True, (at(120),))
    broker.before, broker.breaks = lambda: None, False

    beat.tick(at(62))
    second.tick(at(63))

    assert (beat.leads, broker.names, row(person, "last_run")) == (False, ["report"], (at(63),))


def test_a_message_that_the_broker_refuses_holds_up_no_other(
    beat: Beat, broker: Broker, person: Any, caplog: pytest.LogCaptureFixture
) -> None:
    add(person, "apart")
    add(person)
    beat.tick(at(0))
    broker.refuses = {"apart"}
    for second in (60, 62, 64):
        beat.tick(at(second))
    assert broker.names == ["report"]
    assert row(person, "last_result", name="apart") == ({"state": "not_sent", "error": "not this one"},)
    assert len([line for line in caplog.messages if "refuses it" in line]) == 1
    broker.refuses = set()
    beat.tick(at(66))
    assert broker.names == ["apart"]


def test_the_database_away_is_said_once(beat: Beat, person: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    connect, beat.connect = beat.connect, lambda: psycopg.connect("postgresql://nobody@127.0.0.1:1/none", connect_timeout=2)
    assert [beat.tick(at(0)) for _ in range(3)] == [LOOK_S] * 3
    beat.connect = connect
    beat.tick(at(0))
    said = [line.partition(":")[0] for line in caplog.messages]
    assert said == [
        "the database is away, nothing is sent until it is back",
        "the database is back",
        "this beat leads",
    ]


def test_a_database_that_is_not_migrated_is_waited_for(
    empty_database_url: str, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    beat = Beat(connect_with(Settings(database_url=empty_database_url)), broker, {}, "web1:1")
    assert [beat.tick() for _ in range(2)] == [LOOK_S] * 2
    assert len(caplog.messages) == 1
    assert "penstock.schedule" in caplog.messages[0]
    beat.close()


def test_the_server_ends_the_session_of_a_beat_that_froze(
    new_beat: Any, broker: Broker, person: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Its connection stays open, and nobody but the server could take the lock from it. The wait is shortened."""
    frozen, second = new_beat("web1:1"), new_beat("web2:2")
    add(person)
    frozen.tick(at(0))
    assert frozen._connection.execute("SHOW idle_session_timeout").fetchone() == (f"{SILENCE_S:.0f}s",)
    frozen._connection.execute("SET idle_session_timeout = '50ms'")
    deadline = time.monotonic() + 60
    while not second.leads:
        assert time.monotonic() < deadline
        second.tick(at(30))
    second.tick(at(60))
    frozen.tick(at(60))
    frozen.tick(at(60))
    assert (frozen.leads, broker.names) == (False, ["report"])
    assert [line for line in caplog.messages if "it was frozen" in line] != []


def test_jobs_have_rows_that_follow_the_settings_until_somebody_edits_them(new_beat: Any, person: Any) -> None:
    def settings_say(**values: float) -> dict[str, Default]:
        return {name: default for name, default in defaults_of(Settings(**values)).items() if name in ("held", "adopt")}

    def every() -> dict[str, float]:
        return dict(person("SELECT name, every_s FROM penstock.schedule"))

    first = new_beat(**settings_say(held_replay_every_s=30, adopt_every_s=60))
    for second in range(3):
        first.tick(at(second))
    assert every() == {"held": 30, "adopt": 60}
    assert row(person, "next_run", name="held") == (at(31),)
    end(first, person)

    person("UPDATE penstock.schedule SET every_s = 45 WHERE name = 'adopt'")
    person("UPDATE penstock.schedule SET is_enabled = false WHERE name = 'held'")
    later = new_beat(**settings_say(held_replay_every_s=7, adopt_every_s=90))
    for second in range(3):
        later.tick(at(second))
    assert every() == {"held": 7, "adopt": 45}
    assert row(person, "is_enabled", name="held") == (False,)

    person("DELETE FROM penstock.schedule WHERE name = 'held'")
    later.tick(at(9))
    assert every() == {"held": 7, "adopt": 45}


def test_a_job_that_is_gone_is_not_sent(new_beat: Any, broker: Broker, person: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "knows", lambda task: task == TASK)
    beat = new_beat()
    gone = Default("gone", "penstock.maintain.gone", 60, None)
    schedule.add_missing(beat._open(), [gone])
    for second in (0, 60, 120):
        beat.tick(at(second))
    assert broker.names == []
    error = "there is no job 'gone' in this version of Penstock"
    assert row(person, "last_result", name="gone") == ({"state": "refused", "error": error},)
