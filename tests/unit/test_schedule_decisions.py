"""What beat does with a row, whatever it was told and whatever the clock does."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from penstock_worker.maintenance.schedule.decide import Decision, decide
from penstock_worker.maintenance.schedule.results import result_of
from penstock_worker.maintenance.schedule.scheduler import defaults_of
from penstock_worker.settings import Settings
from penstock_worker.store.schedule import Default, Row

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ROW = Row("report", "shop.report", every_s=60, arguments={}, planned_by="every 60 s", last_run=NOW - MINUTE, next_run=NOW)
NIGHTLY = replace(ROW, every_s=None, cron="0 3 * * *", planned_by="0 3 * * * UTC")


def decision(row: Row, now: datetime = NOW, **defaults: Default) -> Decision:
    return decide(row, now, lambda task: task in ("shop.report", "penstock.maintain.held"), defaults)


def test_a_due_row_is_sent_and_the_next_one_follows() -> None:
    assert decision(ROW) == Decision("send", NOW + MINUTE)
    assert decision(replace(ROW, next_run=NOW - timedelta(days=3))) == Decision("send", NOW + MINUTE)
    assert decision(NIGHTLY) == Decision("send", datetime(2026, 11, 22, 3, tzinfo=UTC))


def test_a_row_whose_time_has_not_come_waits() -> None:
    assert decision(replace(ROW, next_run=NOW + MINUTE)).action == "wait"


def test_a_new_row_is_planned() -> None:
    assert decision(Row("report", "shop.report", every_s=60, arguments={})) == Decision("plan", NOW + MINUTE)


def test_an_edit_is_seen_and_what_was_due_before_is_not_caught_up_with() -> None:
    assert decision(replace(ROW, every_s=3600)) == Decision("plan", NOW + timedelta(minutes=59))
    assert decision(replace(ROW, every_s=None, cron="30 12 * * *")) == Decision("plan", NOW + 30 * MINUTE)
    assert decision(replace(NIGHTLY, time_zone="Asia/Tokyo")) == Decision("plan", datetime(2026, 11, 21, 18, tzinfo=UTC))


def test_a_disabled_row_forgets_when_it_was_due() -> None:
    """So that it is planned anew, once it is enabled, and not sent at once."""
    assert decision(replace(ROW, is_enabled=False)).action == "clear"
    assert decision(replace(ROW, is_enabled=False, next_run=None, planned_by=None)).action == "wait"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"cron": "0 25 * * *", "every_s": None}, "cron '0 25 * * *': Bad hour"),
        ({"time_zone": "Mars"}, "no time zone 'Mars' is known here: use a name like Europe/Berlin or UTC"),
        (
            {"task": "shop.reprot"},
            "no task 'shop.reprot' is known here: name its module in PENSTOCK_TASKS, or the queue that its workers read",
        ),
        ({"task": "penstock.maintain.gone"}, "there is no job 'gone' in this version of Penstock"),
    ],
)
def test_a_row_that_makes_no_sense_is_refused_once(change: dict[str, object], why: str) -> None:
    wrong = replace(ROW, **change)
    assert decision(wrong) == Decision("refuse", why=why)
    told = replace(wrong, next_run=None, last_result={"state": "refused", "error": why})
    assert decision(told).action == "wait"
    assert decision(replace(ROW, next_run=None, last_result=told.last_result)).action == "plan"


def test_tasks_of_other_workers_need_a_queue() -> None:
    assert decision(replace(ROW, task="other.task", queue="other")).action == "send"


def test_a_clock_that_goes_back_a_little_runs_nothing_twice() -> None:
    """Sent at noon; then it is 11:58 again."""
    sent = replace(ROW, last_run=NOW, next_run=NOW + MINUTE)
    earlier = NOW - 2 * MINUTE
    assert decision(sent, earlier) == Decision("plan", earlier + MINUTE)  # an interval waits for no longer than an interval
    nightly = replace(NIGHTLY, last_run=datetime(2026, 11, 21, 3, tzinfo=UTC), next_run=datetime(2026, 11, 22, 3, tzinfo=UTC))
    assert decision(nightly, datetime(2026, 11, 21, 2, 30, tzinfo=UTC)).action == "wait"


def test_a_clock_that_was_years_ahead_keeps_nothing_waiting() -> None:
    ahead = datetime(2099, 1, 1, 3, tzinfo=UTC)
    nightly = replace(NIGHTLY, last_run=ahead, next_run=ahead + timedelta(days=1))
    planned = Decision("plan", datetime(2026, 11, 22, 3, tzinfo=UTC))
    assert decision(nightly) == planned
    assert decision(replace(nightly, next_run=planned.next_run)).action == "wait"


def test_a_row_that_nobody_edited_follows_the_settings() -> None:
    old, new = Default("held", "penstock.maintain.held", 30, None), Default("held", "penstock.maintain.held", 7, None)
    row = replace(ROW, name="held", task=old.task, every_s=30, seed=old.seed, planned_by="every 30 s")
    assert decision(row, held=old).action == "send"
    assert decision(row, held=new).action == "follow"
    assert decision(replace(row, every_s=45, planned_by="every 45 s"), held=new).action == "send"
    assert decision(replace(row, seed=None), held=new).action == "send"


def test_settings_become_rows() -> None:
    """An interval that the table would not take is the nearest one that it takes."""
    rows = defaults_of(Settings(held_replay_every_s=7, adopt_every_s=0.001))
    assert (rows["held"].task, rows["held"].every_s, rows["adopt"].every_s) == ("penstock.maintain.held", 7, 0.1)


@pytest.mark.parametrize(
    ("state", "returned", "result"),
    [
        ("SUCCESS", {"job": "held", "state": "done", "seconds": 0.1, "counts": {"letters": 1}, "error": None},
         {"state": "done", "seconds": 0.1, "counts": {"letters": 1}}),
        ("SUCCESS", {"job": "held", "state": "away", "seconds": 0.1, "counts": {}, "error": "gone"},
         {"state": "away", "seconds": 0.1, "counts": {}, "error": "gone"}),
        ("SUCCESS", {"state": "of Berlin"}, {"state": "done", "seconds": 1.5}),
        ("SUCCESS", None, {"state": "done", "seconds": 1.5}),
        ("FAILURE", KeyError("no\nsuch"), {"state": "failed", "error": r"KeyError: 'no\nsuch'", "seconds": 1.5}),
        ("FAILURE", ValueError("a\0b\ud800"), {"state": "failed", "error": r"ValueError: a\u0000b\ud800", "seconds": 1.5}),
    ],
)  # fmt: skip
def test_what_came_of_a_run(state: str, returned: object, result: dict[str, object]) -> None:
    assert result_of(state, returned, 1.5) == result
