"""`penstock retention` as a person runs it, and beat's worker by itself: what it says, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from subprocess import CompletedProcess
from typing import Any

import psycopg
import pytest

from penstock_worker.maintenance.job import run_job
from penstock_worker.maintenance.jobs import all_jobs
from penstock_worker.settings import Settings
from penstock_worker.store.retention.policy import registry_for
from tests.commands import penstock_here

pytestmark = pytest.mark.acceptance

Penstock = Callable[..., CompletedProcess[str]]
DAY_US = 86_400_000_000


@pytest.fixture
def retention(database_url: str) -> Penstock:
    def run(*words: str, **environment: str) -> CompletedProcess[str]:
        told = {"PENSTOCK_DATABASE_URL": database_url, "COLUMNS": "200", "PENSTOCK_RETENTION_WORK_SHARE": "1"}
        return penstock_here("retention", *words, **(told | environment))

    with psycopg.connect(database_url, autocommit=True) as connection:
        now = int(datetime.now(UTC).timestamp() * 1_000_000)
        connection.execute("INSERT INTO scheduler.jobs (id, _version) VALUES ('j1', %s), ('j2', %s)", [now, now])
        for number, (job, days) in enumerate([("j1", 40), ("j1", 1), ("j2", 31), ("j2", 29)]):
            connection.execute(
                "INSERT INTO scheduler.executions (id, job_id, _version, _oldest) VALUES (%s, %s, %s, 1)",
                [f"e{number}", job, now - days * DAY_US],
            )
    return run


def executions(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM scheduler.executions ORDER BY id")]


def plan_of(done: CompletedProcess[str], type: str) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    (found,) = (one for one in json.loads(done.stdout)["types"] if one["type"] == type)
    return found


def test_a_plan_is_carried_out(retention: Penstock, database_url: str):
    shown = retention("plan")
    assert shown.returncode == 0
    (line,) = (line for line in shown.stdout.splitlines() if line.startswith(" scheduler.execution"))
    assert line.split()[:7] == ["scheduler.execution", "30", "d", "declaration", "4", "2", "-"]
    plan = plan_of(retention("plan", "--json"), "scheduler.execution")
    next_due = datetime.fromisoformat(plan.pop("next_due")) - datetime.now(UTC)
    assert timedelta(hours=23) < next_due < timedelta(days=1)
    assert (plan["rows"], plan["due"], plan["is_exact"]) == (4, 2, True)
    assert plan["policy"] == {"retention_s": 30 * 86400, "source": "declaration"}

    dry = retention("run", "--dry-run")
    assert (dry.returncode, dry.stdout) == (
        0,
        "retention: would go (scheduler.execution (due 2)) (dry run, nothing was changed)\n",
    )
    assert len(executions(database_url)) == 4
    done = json.loads(retention("run", "--all", "--json").stdout)
    assert (done["state"], done["counts"]["deleted"]) == ("done", {"scheduler.execution": 2})
    assert executions(database_url) == ["e1", "e3"]
    assert plan_of(retention("plan", "--json"), "scheduler.execution")["due"] == 0


def test_a_setting_changes_the_plan(retention: Penstock):
    plan = plan_of(retention("plan", "--json", PENSTOCK_RETENTION="scheduler.execution=12h"), "scheduler.execution")
    assert (plan["due"], plan["policy"]) == (4, {"retention_s": 43200, "source": "setting"})
    plan = plan_of(retention("plan", "--json", PENSTOCK_RETENTION="scheduler.execution=never"), "scheduler.execution")
    assert (plan["due"], plan["policy"]) == (0, {"retention_s": None, "source": "setting"})

    wrong = retention("plan", PENSTOCK_RETENTION="scheduler.executions=never")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("penstock: PENSTOCK_RETENTION: there is no type 'scheduler.executions'; there are ")
    assert wrong.stderr.count("\n") == 1


def test_holds_are_placed_listed_and_released(retention: Penstock, database_url: str):
    placed = retention("hold", "--type", "scheduler.job", "--key", "j1", "--reason", "audit", "--by", "eve")
    number = placed.stdout.split()[1].rstrip(":")
    assert placed.stdout == f"hold {number}: scheduler.job j1 is kept until `penstock retention release {number}`\n"
    person = json.loads(retention("hold", "--subject", "ann", "--reason", "lawsuit", "--json").stdout)
    assert person["subject"] == "ann"
    assert "person ann in every type" in retention("holds").stdout

    assert plan_of(retention("plan", "--json"), "scheduler.execution")["on_hold"] == 1
    assert retention("run").returncode == 0
    assert executions(database_url) == ["e0", "e1", "e3"]

    assert retention("release", number).stdout == f"hold {number} is released: scheduler.job j1\n"
    again = retention("release", number)
    assert (again.returncode, again.stderr) == (
        2,
        f"penstock: no hold {number} is in force: `penstock retention holds` lists those that are\n",
    )
    assert [hold["id"] for hold in json.loads(retention("holds", "--json").stdout)["holds"]] == [person["id"]]
    assert len(json.loads(retention("holds", "--all", "--json").stdout)["holds"]) == 2
    assert retention("run").returncode == 0
    assert executions(database_url) == ["e1", "e3"]


def test_a_wrong_hold_is_one_line(retention: Penstock):
    wrong = retention("hold", "--type", "scheduler.execution", "--subject", "ann", "--reason", "r")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "penstock: scheduler.execution names no person: hold it by --key, or as a whole\n",
    )


def test_the_job_is_among_those_that_beat_starts(database_url: str):
    settings = Settings(database_url=database_url)
    job = all_jobs(settings)["retention"]
    assert (job.every_s, job.deletes) == (60, True)
    assert run_job(job, settings, registry_for(settings), started_by="beat").state == "done"
