"""`penstock health`: what it says, to people and to programs, and that it stays cheap enough to be run every few seconds."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from penstock_worker.health import STALE_AFTER_S, Health, write_health
from tests.commands import penstock_here

AWAY = "the database is away: no route"


class Host:
    """Workers and beats that have written how they are."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now = folder, time.time()

    def has(self, worker: str, **facts: Any) -> None:
        usual = {"queue": "penstock.events", "started_at": self.now, "written_at": self.now, "is_consuming": True}
        write_health(self.folder, Health(**{"worker": worker, **usual, "paused_why": None, "consumed_messages": 0, **facts}))

    def see(self, *words: str) -> tuple[int, list[str]]:
        done = penstock_here("health", *words, PENSTOCK_HEALTH_FOLDER=str(self.folder))
        return done.returncode, done.stdout.splitlines()

    def told(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.see("--json")[1][0])
        return found


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_nobody_is_unhealthy(host: Host) -> None:
    assert host.see() == (1, [f"no worker and no beat of penstock.events has written its health into {host.folder}"])
    assert host.see("--of", "beat") == (1, [f"no beat of penstock.events has written its health into {host.folder}"])
    told = host.told()
    del told["time"]
    persistence = {"status": "unknown", "backend": "postgresql"}
    assert told == {"status": "unhealthy", "workers": [], "beats": [], "persistence": persistence}


def test_who_works_and_who_waits(host: Host) -> None:
    """Waiting is no trouble: a restart would help nobody."""
    host.has("a@h")
    host.has("b@h", paused_why=AWAY, is_consuming=False, not_ready=(f"paused, {AWAY}",), database_why=AWAY)
    host.has("c@h", does="maintenance", queue="penstock.maintenance", not_ready=("it connects to the broker again",))
    host.has("d@h", does="beat")

    assert host.see() == (
        0,
        [
            "a@h works",
            f"b@h is paused, {AWAY}",
            "c@h is not ready: it connects to the broker again",
            "d@h works",
        ],
    )
    assert (host.see("--ready")[0], host.see("--ready", "--of", "beat")[0]) == (1, 0)
    told = host.told()
    assert (told["status"], told["persistence"]) == ("degraded", {"status": "unhealthy", "backend": "postgresql"})
    assert [worker["worker"] for worker in (*told["workers"], *told["beats"])] == ["a@h", "b@h", "c@h", "d@h"]


def test_who_stands_still(host: Host) -> None:
    host.has("a@h", is_stalled=True, stalled_since=60.0, stalled_why="the event loop has not turned for 40 s")
    host.has("b@h", written_at=host.now - 2 * STALE_AFTER_S, database_why=AWAY)

    code, lines = host.see()
    assert (code, lines[0]) == (1, "a@h stands still since 1970-01-01 00:01:00 UTC: the event loop has not turned for 40 s")
    assert lines[1].startswith("b@h: its process has not moved for 60 s")
    assert (host.told()["status"], host.told()["persistence"]["status"]) == ("unhealthy", "unknown")


def test_all_is_well(host: Host) -> None:
    host.has("a@h")
    assert (host.see("--ready"), host.told()["status"], host.told()["persistence"]["status"]) == (
        (0, ["a@h works"]),
        "healthy",
        "healthy",
    )


def test_it_loads_little(host: Host) -> None:
    """As a container's health check it runs again and again."""
    heavy = ("celery", "kombu", "psycopg", "alembic", "sqlalchemy", "redis", "prometheus_client", "http.server")
    code = f"""
import sys
sys.argv = ["penstock", "health"]
from penstock_worker.cli import main
try:
    main()
except SystemExit:
    print(*[name for name in {heavy!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=host.folder)
    assert done.stdout.splitlines()[1:] == [""]
