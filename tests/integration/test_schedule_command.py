"""`penstock schedule` as a person runs it, before and while a beat leads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from penstock_worker.maintenance.schedule.scheduler import defaults_of
from penstock_worker.maintenance.schedule.tick import Beat
from penstock_worker.settings import Settings
from penstock_worker.store.connection import connect_with
from tests.commands import penstock_here

Run = Callable[..., Any]


@pytest.fixture
def run(database_url: str) -> Run:
    """What it prints; JSON where that was asked for. A mistake is its line on stderr."""

    def command(*words: str, **environment: str) -> Any:
        done = penstock_here("schedule", *words, PENSTOCK_DATABASE_URL=database_url, COLUMNS="200", **environment)
        if done.returncode:
            assert (done.returncode, done.stderr.count("\n")) == (2, 1)
            return done.stderr.removeprefix("penstock: ").rstrip()
        return json.loads(done.stdout) if "--json" in words else done.stdout

    return command


@pytest.fixture
def beat(database_url: str) -> Iterator[Beat]:
    class Nobody:
        def knows(self, task: str) -> bool:
            return task == "shop.report" or task.startswith("penstock.maintain.")

        def open(self) -> Any:
            raise AssertionError("nothing is due")

    settings = Settings(database_url=database_url)
    beat = Beat(connect_with(settings), Nobody(), defaults_of(settings), "web1:7")
    yield beat
    beat.close()


def rows(run: Run) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in run("list", "--json")["rows"]}


def test_before_the_first_beat_the_jobs_are_listed_and_can_be_changed(run: Run) -> None:
    assert run("list", "--json")["beats"] == []
    assert "nothing is sent: start one with `penstock beat`" in run("list")
    held = rows(run)["held"]
    assert (held["kind"], held["timing"], held["is_enabled"], held["last_run"]) == ("job", "every 30 s", True, None)
    assert run("disable", "held") == "held: every 30 s, disabled\n"
    assert rows(run)["held"]["next_run"] is None
    assert run("enable", "held").startswith("held: every 30 s, next run 2")


def test_a_person_reads_who_leads_and_what_comes_next(run: Run, beat: Beat, database_url: str) -> None:
    run("set", "report", "--cron", "0 3 * * *", "--time-zone", "Europe/Berlin", "--task", "shop.report")
    run("set", "wrong", "--every", "60", "--task", "shop.reprot")
    beat.tick()
    beat.tick()
    with psycopg.connect(database_url) as connection:
        result = '{"state": "done", "seconds": 0.25, "counts": {"letters": 1234}}'
        connection.execute(
            "UPDATE penstock.schedule SET last_run = now() - interval '5 min', next_run = now() + interval '100 s',"
            " every_s = 400, planned_by = 'every 400 s', last_result = %s WHERE name = 'held'",
            [result],
        )
    shown = run("list")
    assert "beat: web1:7 leads, connected since " in shown
    lines = {line.split()[0]: line for line in shown.splitlines()}
    assert "in 100 s" in lines["held"] or "in 99 s" in lines["held"]
    for part in ("every 400 s", "5 min ago", "done in 0.25 s: letters 1,234", "edited"):
        assert part in lines["held"]
    assert "0 3 * * * Europe/Berlin" in lines["report"]
    assert "own, NOT SENT: no task 'shop.reprot' is known here" in lines["wrong"]


def test_a_changed_job_can_follow_the_settings_again(run: Run) -> None:
    run("set", "held", "--every", "30")  # what the settings say as well: it is a person's word from now on
    run("disable", "held")
    assert (rows(run)["held"]["kind"], rows(run)["held"]["is_enabled"]) == ("edited", False)
    run("set", "held", "--cron", "*/5 * * * *")
    assert rows(run)["held"]["timing"] == "*/5 * * * * UTC"
    run("set", "held", "--default")
    assert (rows(run)["held"]["kind"], rows(run)["held"]["timing"]) == ("job", "every 30 s")
    assert rows(run)["held"]["is_enabled"] is False


def test_a_row_of_ones_own(run: Run) -> None:
    words = ("--every", "90", "--task", "shop.report", "--arguments", '{"days": 3}', "--queue", "shop")
    assert run("set", "report", *words).startswith("report: every 90 s, next run ")
    row = rows(run)["report"]
    assert (row["kind"], row["task"], row["arguments"], row["queue"]) == ("own", "shop.report", {"days": 3}, "shop")
    run("set", "report", "--arguments", "[1]")
    assert (rows(run)["report"]["arguments"], rows(run)["report"]["timing"]) == ([1], "every 90 s")
    assert run("remove", "report") == "report is removed\n"
    assert "report" not in rows(run)


def test_a_job_is_run_now_with_its_arguments(run: Run) -> None:
    run("set", "held-again", "--every", "90", "--task", "penstock.maintain.held")
    assert run("run", "held-again") == "held: letters 0, remaining 0\n"
    assert run("run", "held", "--json")["counts"] == {"letters": 0, "remaining": 0}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("enable nothing", "there is no 'nothing' in the schedule; there are "),
        ("remove held", "held is a job of Penstock: `penstock schedule disable held` stops it"),
        ("set held", "say what to change, see --help"),
        ("set held --default --every 3", "--default goes with nothing else"),
        ("set held --every 0", "an interval is 0.1 to 31,622,400 seconds, not 0"),
        ("set held --every nan", "seconds, not nan"),
        ("set held --cron 0,25", "cron '0,25': five fields are wanted"),
        ("set held --every 3 --cron *,*,*,*,*", "either an interval or a cron expression"),
        ("set held --time-zone Mars", "no time zone 'Mars' is known here"),
        ("set held --task shop.report", "held is a job of Penstock: take another name"),
        ("set held --arguments 7", "--arguments: a JSON object or array is wanted"),
        ("set held --arguments [NaN]", "--arguments: NaN is no JSON"),
        ("set held --arguments {", "--arguments: Expecting"),
        (f"set held --arguments {'[' * 3_000}{']' * 3_000}", "--arguments: maximum recursion depth exceeded"),
        (r'set new --every 3 --task shop.report --arguments ["\u0000"]', "the database does not take that: "),
        ("set held --arguments [1]", "held: the arguments of a job are a JSON object"),
        ('set backup --arguments {"keyfile":"k.pub"}', "backup has no argument keyfile: it takes folder, format, key_file"),
        ("set new --every 3", "a new row needs --task, and --every or --cron"),
        ("set new --every 3 --task penstock.maintain.gone", "there is no job 'gone' in this version of Penstock"),
        ("set new --default", "new is no job of Penstock: --default is for those"),
        ("run nothing", "there is no 'nothing' in the schedule"),
    ],
)
def test_a_mistake_is_one_line(run: Run, words: str, says: str) -> None:
    assert says in run(*(word.replace("*,*", "* *") for word in words.split()))


def test_what_cannot_be_sent_is_one_line(run: Run, valkey_url: str) -> None:
    run("set", "report", "--every", "90", "--task", "shop.report")
    assert "report: no task 'shop.report' is known here" in run("run", "report", PENSTOCK_BROKER_URL=valkey_url)
    assert "PENSTOCK_TASKS: No module named 'no_such'" in run("run", "report", PENSTOCK_TASKS="no_such")
    run("set", "report", "--queue", "shop")
    assert "the broker cannot be reached: " in run("run", "report")
    assert run("run", "report", "--json", PENSTOCK_BROKER_URL=valkey_url)["state"] == "sent"


def test_a_database_that_is_not_migrated_is_one_line(empty_database_url: str) -> None:
    for words in (["list"], ["enable", "held"], ["run", "held"]):
        done = penstock_here("schedule", *words, PENSTOCK_DATABASE_URL=empty_database_url)
        assert (done.returncode, "run `penstock migrate up`" in done.stderr) == (2, True)
