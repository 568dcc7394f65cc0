"""Real beats, killed in the middle; and a run all the way through a worker back into its row."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from penstock_worker.app import MAINTENANCE_QUEUE
from penstock_worker.maintenance.schedule.tick import LOOK_S, SILENCE_S
from penstock_worker.settings import Settings
from penstock_worker.stack.commands import beat_command
from penstock_worker.store import schedule
from tests.commands import penstock, penstock_here
from tests.servers.celery_worker import Failpoints, WorkerProcess, worker_settings
from tests.servers.process import LocalProcess

pytestmark = pytest.mark.acceptance

TASKS = """
from celery import shared_task

@shared_task(name="shop.report")
def report(days):
    return days

@shared_task(name="shop.fails")
def fails():
    raise ValueError("no such shop")
"""


class Site:
    """A database, a broker, and the beats that run there."""

    def __init__(self, database_url: str, broker_url: str, folder: Path) -> None:
        self.settings = Settings(database_url=database_url, broker_url=broker_url)
        self.folder = folder
        self.environment = {
            "PENSTOCK_DATABASE_URL": database_url,
            "PENSTOCK_BROKER_URL": broker_url,
            "PENSTOCK_TASKS": "shop_tasks",
            "PYTHONPATH": str(folder),
        }
        (folder / "shop_tasks.py").write_text(TASKS)
        self.connection = psycopg.connect(database_url, autocommit=True)
        self.broker = redis.Redis.from_url(broker_url)
        self.processes: list[LocalProcess] = []
        self.sent: list[tuple[str, str]] = []

    def start_beat(self) -> LocalProcess:
        name = f"beat{len(self.processes)}"
        beat = LocalProcess(
            name, beat_command(self.settings), log=self.folder / f"{name}.log", env=self.environment, cwd=self.folder
        )
        self.processes.append(beat)
        beat.start()
        wait_for(lambda: any(seen.who.endswith(f":{beat.pid}") for seen in self.beats()))
        return beat

    def beats(self) -> list[schedule.BeatSeen]:
        return schedule.list_beats(self.connection)

    def leader(self) -> LocalProcess | None:
        leading = [seen.who.rpartition(":")[2] for seen in self.beats() if seen.leads]
        return next((beat for beat in self.processes if beat.is_running and str(beat.pid) in leading), None)

    def take(self) -> int:
        """Take what was sent from the broker: name and expiry, which is the time of the run after it."""
        while message := self.broker.rpop(MAINTENANCE_QUEUE):
            headers = json.loads(message)["headers"]
            self.sent.append((headers["penstock_schedule"], headers["expires"]))
        return len(self.sent)

    def goes_on(self) -> None:
        """Wait for three more runs, and see that none was sent twice."""
        before = self.take()
        wait_for(lambda: self.take() >= before + 3)
        assert len(set(self.sent)) == len(self.sent)

    def command(self, *words: str) -> Any:
        done = penstock_here("schedule", *words, **self.environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if "--json" in words else done.stdout

    def close(self) -> None:
        for process in self.processes:
            process.clean_up()
        self.connection.close()
        self.broker.close()


@pytest.fixture
def site(database_url: str, valkey_url: str, tmp_path: Path) -> Iterator[Site]:
    site = Site(database_url, valkey_url, tmp_path)
    try:
        yield site
    finally:
        site.close()


def test_one_beat_after_the_other(site: Site) -> None:
    """Killed, cut off, asked to end: another one leads, and no run is sent twice."""
    assert LOOK_S + SILENCE_S <= 10  # at the latest, see `schedule.name_beat`; here it is not measured
    site.command("set", "tick", "--every", "0.3", "--task", "shop.report", "--arguments", "[7]")
    site.connection.execute("UPDATE penstock.schedule SET is_enabled = false WHERE name <> 'tick'")
    first, second = site.start_beat(), site.start_beat()
    wait_for(lambda: site.leader() is not None)
    leader = site.leader()
    site.goes_on()

    assert leader in (first, second)
    leader.kill(signal.SIGKILL)
    wait_for(lambda: site.leader() not in (None, leader))
    site.goes_on()

    site.start_beat()
    site.connection.execute(
        "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
        " WHERE application_name LIKE 'penstock beat %' AND datname = current_database()"
    )
    wait_for(lambda: len(site.beats()) == 2 and site.leader() is not None)
    site.goes_on()

    leader = site.leader()
    assert leader is not None
    leader.stop()
    assert leader.exit_code == 0, leader.logs()
    wait_for(lambda: site.leader() not in (None, leader))
    site.goes_on()
    assert {name for name, _ in site.sent} == {"tick"}
    assert [path.name for path in site.folder.iterdir() if "schedule" in path.name] == []


def test_a_run_tells_its_row_what_came_of_it(site: Site) -> None:
    """A job, a task of a user, and one that fails."""
    site.command("set", "held", "--every", "0.5")
    site.command("set", "report", "--every", "0.5", "--task", "shop.report", "--arguments", '{"days": 3}')
    site.command("set", "fails", "--cron", "0 3 * * *", "--time-zone", "Europe/Berlin", "--task", "shop.fails")
    options = worker_settings(site.settings.database, site.settings.broker, Failpoints(site.folder, ""), {"concurrency": 1})
    worker = WorkerProcess("w1", site.folder, options | site.environment)
    site.processes.append(worker)
    worker.launch()
    site.start_beat()
    # In a process of its own, for it imports the tasks.
    assert penstock("schedule", "run", "fails", **site.environment).stdout == "fails: shop.fails is sent\n"

    def results() -> dict[str, dict[str, Any]]:
        return {row["name"]: row["last_result"] or {} for row in site.command("list", "--json")["rows"]}

    seen: dict[str, dict[str, Any]] = {}

    def have_all_ended() -> bool:
        seen.update({name: result for name, result in results().items() if result.get("state") in ("done", "failed")})
        return {"held", "report", "fails"} <= seen.keys()

    wait_for(have_all_ended)
    assert seen["held"].pop("seconds") >= 0
    assert seen["held"] == {"state": "done", "counts": {"letters": 0, "remaining": 0}}
    assert seen["report"]["state"] == "done"
    assert seen["fails"]["error"] == "ValueError: no such shop"


def wait_for(holds: Callable[[], bool], within_s: float = 120) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def test_beat_without_a_database_is_one_line(tmp_path: Path) -> None:
    beat = LocalProcess(
        "beat",
        [sys.executable, "-m", "penstock_worker", "beat"],
        log=tmp_path / "beat.log",
        env={"PENSTOCK_BROKER_URL": "redis://127.0.0.1:1/0", "PENSTOCK_DATABASE_URL": ""},
        cwd=tmp_path,
    )
    beat.launch()
    wait_for(lambda: not beat.is_running)
    assert (beat.exit_code, beat.logs().count("\n"), "PENSTOCK_DATABASE_URL is not set" in beat.logs()) == (2, 1, True)
