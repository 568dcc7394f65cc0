"""A run of a job: its row, its lock, and how it ends, whatever happens to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from penstock_schemas.registry import load_registry
from penstock_worker.errors import ConfigurationError
from penstock_worker.maintenance import jobs
from penstock_worker.maintenance.job import Done, Job, Work, run_job
from penstock_worker.settings import Settings
from penstock_worker.store.runs import list_runs
from tests.commands import penstock_here as penstock

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Office:
    """Runs jobs in a database, and reads their rows."""

    def __init__(self, url: str) -> None:
        self.url, self.registry = url, load_registry()

    def run(self, job: Job, **how: Any) -> Done:
        return run_job(job, Settings(database_url=self.url), self.registry, started_by="test", now=lambda: NOW, **how)

    def rows(self) -> list[dict[str, Any]]:
        """The first run first, what differs from time to time left out."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            runs = list_runs(connection)[::-1]
        names = ("job", "started_by", "is_dry_run", "state", "counts", "error")
        return [{name: getattr(run, name) for name in names} for run in runs]


@pytest.fixture
def office(database_url: str) -> Office:
    return Office(database_url)


def sweep(run: Callable[[Work], dict[str, Any]], name: str = "sweep", *, deletes: bool = True) -> Job:
    return Job(name, "sweeps", run, every_s=1, deletes=deletes)


def row(state: str, *, job: str = "sweep", is_dry_run: bool = False, **more: Any) -> dict[str, Any]:
    found = {"job": job, "started_by": "test", "is_dry_run": is_dry_run, "state": state, "counts": None, "error": None}
    return found | more


def test_a_run_leaves_its_counts(office: Office) -> None:
    done = office.run(sweep(lambda work: {"at": str(work.now), **work.arguments}), arguments={"limit": 3})

    counts = {"at": str(NOW), "limit": 3}
    assert (done.state, done.counts) == ("done", counts)
    assert office.rows() == [row("done", counts=counts)]


def test_a_misspelt_argument_is_not_passed_over(office: Office) -> None:
    job = replace(sweep(lambda _: pytest.fail("it ran")), takes=("key_file",))
    with pytest.raises(ConfigurationError, match="sweep has no argument keyfile: it takes key_file"):
        office.run(job, arguments={"keyfile": "k.pub"})
    assert [found["state"] for found in office.rows()] == ["failed"]


def test_a_dry_run_is_noted(office: Office) -> None:
    office.run(sweep(lambda work: {"gone": 0 if work.is_dry_run else 1}), is_dry_run=True)
    assert office.rows() == [row("done", is_dry_run=True, counts={"gone": 0})]


def test_a_job_that_knows_no_dry_run_is_not_run(office: Office) -> None:
    with pytest.raises(ConfigurationError, match="sweep deletes nothing and has no dry run"):
        office.run(sweep(lambda _: pytest.fail("it ran"), deletes=False), is_dry_run=True)
    assert office.rows() == []


@pytest.mark.parametrize("error", [ValueError("two\n lines"), KeyboardInterrupt("two lines")])
def test_a_failed_run_is_noted_and_raised(office: Office, error: BaseException) -> None:
    def fail(_: Work) -> dict[str, Any]:
        raise error

    with pytest.raises(type(error)):
        office.run(sweep(fail))
    assert office.rows() == [row("failed", counts={}, error=f"{type(error).__name__}: two lines")]


def test_what_the_database_refuses_is_a_failure(office: Office) -> None:
    """It is there: the next run would fare no better."""
    with pytest.raises(psycopg.errors.UndefinedTable):
        office.run(sweep(lambda work: {"": work.connection.execute("TABLE nowhere")}))
    (found,) = office.rows()
    assert (found["state"], found["error"][:15]) == ("failed", "UndefinedTable:")


def test_what_a_row_holds_is_not_in_the_words_of_a_failure(office: Office) -> None:
    """Readers of the runs need not be readers of that row."""

    def insert_twice(work: Work) -> dict[str, Any]:
        work.connection.execute("CREATE TEMP TABLE twice (name text PRIMARY KEY)")
        work.connection.execute("INSERT INTO twice VALUES ('a secret'), ('a secret')")
        return {}

    with pytest.raises(psycopg.errors.UniqueViolation):
        office.run(sweep(insert_twice))
    (found,) = office.rows()
    assert found["error"] == 'UniqueViolation: duplicate key value violates unique constraint "twice_pkey" …'


def test_a_statement_that_takes_too_long_is_left_to_the_next_run(office: Office) -> None:
    def linger(work: Work) -> dict[str, Any]:
        work.connection.execute("SET statement_timeout = 1")
        return {"": work.connection.execute("SELECT pg_sleep(60)")}

    assert office.run(sweep(linger)).state == "away"
    assert [found["state"] for found in office.rows()] == ["away"]


def test_a_second_run_at_once_is_skipped(office: Office) -> None:
    seconds: list[Done] = []

    def run_again(_: Work) -> dict[str, Any]:
        seconds.append(office.run(sweep(lambda _: pytest.fail("two at once"))))
        seconds.append(office.run(sweep(lambda _: {}, "other")))
        return {}

    office.run(sweep(run_again))

    assert [(done.job, done.state) for done in seconds] == [("sweep", "skipped"), ("other", "done")]
    assert office.rows() == [row("done", counts={}), row("done", job="other", counts={})]


def test_a_run_that_is_over_keeps_nobody_from_the_next(office: Office) -> None:
    """The lock is gone when it returns, not when the server has noticed the connection's end."""
    assert {office.run(sweep(lambda _: {})).state for _ in range(20)} == {"done"}


def test_a_run_that_was_cut_off_has_died(office: Office) -> None:
    def cut(work: Work) -> dict[str, Any]:
        with psycopg.connect(office.url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 10000)", [work.connection.info.backend_pid])
        work.connection.execute("SELECT 1")
        return {}

    assert office.run(sweep(cut)).state == "away"
    assert [found["state"] for found in office.rows()] == ["running"]

    office.run(sweep(lambda _: {}))

    assert [found["state"] for found in office.rows()] == ["died", "done"]


_HANGING = """
import sys, time
from penstock_worker.maintenance.job import Job, run_job
from penstock_worker.settings import Settings
def hang(work):
    print("under way", flush=True)
    time.sleep(600)
run_job(Job("sweep", "hangs", hang, every_s=1), Settings(database_url=sys.argv[1]), {}, started_by="test")
"""


def test_a_killed_run_has_died_and_one_that_runs_has_not(office: Office) -> None:
    """Whichever job is run next says so: the killed one may be disabled for ever."""
    with subprocess.Popen([sys.executable, "-c", _HANGING, office.url], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"under way\n"
        office.run(sweep(lambda _: {}, "other"))
        before = office.rows()[0]["state"]
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
    _wait_until_alone(office)

    office.run(sweep(lambda _: {}, "other"))

    assert (before, office.rows()[0]) == ("running", row("died"))


def _wait_until_alone(office: Office) -> None:
    """The server notices the end of a killed client when its socket closes, which is soon."""
    with psycopg.connect(office.url, autocommit=True) as connection:
        ending = "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = %s"
        connection.execute(ending, [connection.info.dbname])


def test_a_database_that_is_away_is_no_failure() -> None:
    done = Office("postgresql://nobody@127.0.0.1:1/none").run(sweep(lambda _: pytest.fail("it ran")))
    assert (done.state, "OperationalError: " in str(done.error)) == ("away", True)


# -- by hand -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def by_hand(office: Office, monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`penstock maintenance`, with a job of the test's own beside the others."""

    def tidy(work: Work) -> dict[str, Any]:
        work.progress(1, 2)
        return {"rows": 1234, "tables": {"a.b": 1, "c": 0}, "made": [], "dry_run": work.is_dry_run}

    def divide(work: Work) -> dict[str, Any]:
        return {"": work.connection.execute("SELECT 1 / 0")}

    own = {job.name: job for job in (sweep(tidy), sweep(lambda _: {}, "plain", deletes=False), sweep(divide, "broken"))}
    everything = jobs.all_jobs
    monkeypatch.setattr(jobs, "all_jobs", lambda settings: everything(settings) | own)
    return lambda *words, **environment: penstock(
        "maintenance", *words, **{"PENSTOCK_DATABASE_URL": office.url, "LOGNAME": "ada"} | environment
    )


def test_by_hand_it_says_in_a_line_what_it_did(by_hand: Any, office: Office) -> None:
    done = by_hand("run", "sweep")

    assert done.stdout == "sweep: rows 1,234, tables (a.b 1, c 0), made none, dry run False\n"
    assert (done.returncode, done.stderr) == (0, "")
    (found,) = office.rows()
    assert (found["state"], found["started_by"]) == ("done", "hand:ada")


def test_what_strangers_named_is_text(by_hand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A producer's or a type's name in the counts: no markup, no control of the terminal, and one line."""
    strange = {"[red]no[/red]": ["\x1b[2J", "a\nb"], "none": None}
    monkeypatch.setattr(jobs, "all_jobs", lambda _: {"sweep": sweep(lambda _: strange)})

    assert by_hand("run", "sweep").stdout == "sweep: [red]no[/red]  [2J, a b, none -\n"
    assert "[red]no[/red]" in by_hand("runs").stdout


def test_by_hand_it_says_so_in_json(by_hand: Any) -> None:
    done = json.loads(by_hand("run", "sweep", "--dry-run", "--json").stdout)
    assert (done["state"], done["is_dry_run"], done["counts"]["dry_run"]) == ("done", True, True)


@pytest.mark.parametrize(
    ("words", "environment", "line"),
    [
        (["run", "plain", "--dry-run"], {}, "plain deletes nothing and has no dry run; run it without --dry-run"),
        (["run", "nonsense"], {}, "there is no job 'nonsense'; there are flush, "),
        (["runs", "--job", "nonsense"], {}, "there is no job 'nonsense'; there are flush, "),
        (["run", "broken"], {}, "broken failed, the database says: division by zero"),
        (["run", "sweep"], {"PENSTOCK_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}, "sweep was not finished, "),
    ],
)
def test_what_a_person_can_change_is_one_line(by_hand: Any, words: list[str], environment: Any, line: str) -> None:
    done = by_hand(*words, **environment)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"penstock: {line}")


def test_by_hand_beside_another_run_is_one_line(by_hand: Any, office: Office) -> None:
    beside: list[Any] = []

    def run_by_hand(_: Work) -> dict[str, Any]:
        beside.extend([by_hand("run", "sweep"), by_hand("run", "sweep", "--json")])
        return {}

    office.run(sweep(run_by_hand))

    line = "penstock: sweep was not run: another run is under way; see `penstock maintenance runs --job sweep`\n"
    assert [(done.returncode, done.stderr) for done in beside] == [(1, line)] * 2
    assert json.loads(beside[1].stdout)["state"] == "skipped"


def test_jobs_and_runs_are_listed(by_hand: Any) -> None:
    by_hand("run", "sweep", "--dry-run")
    by_hand("run", "plain")

    listed = json.loads(by_hand("list", "--json").stdout)["jobs"]
    own = [job for job in listed if job["name"] in ("sweep", "plain")]
    every = {"summary": "sweeps", "every_s": 1, "cron": None}
    assert own == [{"name": "sweep", **every, "deletes": True}, {"name": "plain", **every, "deletes": False}]
    assert "sweeps" in by_hand("list").stdout

    runs = json.loads(by_hand("runs", "--json").stdout)["runs"]
    assert [(run["job"], run["is_dry_run"], run["started_by"]) for run in runs] == [
        ("plain", False, "hand:ada"),
        ("sweep", True, "hand:ada"),
    ]
    assert [run["job"] for run in json.loads(by_hand("runs", "--json", "--job", "sweep").stdout)["runs"]] == ["sweep"]
    assert len(json.loads(by_hand("runs", "--json", "--limit", "1").stdout)["runs"]) == 1
    assert "nothing to do" in by_hand("runs").stdout
