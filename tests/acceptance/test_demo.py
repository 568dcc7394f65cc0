"""`penstock demo` as a person runs it, on a few of its files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest

from penstock_worker.demo import compare

pytestmark = pytest.mark.acceptance

FILES = 6
GOOD = {"dead_lettered": 0, "lost": 0, "extra": 0, "mismatched": 0, "sessions": FILES}


def run_demo(folder: Path, **urls: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    return subprocess.run(
        [sys.executable, "-m", "penstock_worker", "demo", "--json", f"--files={FILES}"],
        cwd=folder,
        env=environment | urls,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def run_comparison(database_url: str) -> tuple[int, dict[str, int]]:
    done = subprocess.run(
        [sys.executable, "-P", compare.__file__, f"--files={FILES}"],
        env=os.environ | {"PENSTOCK_DATABASE_URL": database_url},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


def summary_of(done: subprocess.CompletedProcess[str]) -> dict[str, float]:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_demo_stores_everything_twice_in_one_folder(tmp_path):
    """With servers of its own, which end with it; the rows of the first run are those of the second."""
    first, second = summary_of(run_demo(tmp_path)), summary_of(run_demo(tmp_path))

    for summary in (first, second):
        assert {name: summary[name] for name in GOOD} == GOOD
        assert summary["published"] == summary["stored"] > summary["tasks"] > 0
    assert list(first) == [
        *("published", "stored", "dead_lettered", "lost", "extra", "mismatched"),
        *("sessions", "tasks", "seconds", "events_per_s"),
    ]
    assert first["published"] == second["published"]
    running = (process.info for process in psutil.process_iter(["cmdline", "cwd"]))
    left = [info["cmdline"] for info in running if str(tmp_path) in " ".join([*(info["cmdline"] or []), info["cwd"] or ""])]
    assert left == []


@pytest.mark.rabbitmq
def test_the_comparison_finds_what_was_changed(database_url, rabbitmq_url, tmp_path):
    """On servers that run already, and the other broker: one row changed, one deleted, one added."""
    summary = summary_of(run_demo(tmp_path, PENSTOCK_DATABASE_URL=database_url, PENSTOCK_BROKER_URL=rabbitmq_url))
    before = run_comparison(database_url)
    with psycopg.connect(database_url, autocommit=True) as connection:
        (first, second), *_ = connection.execute("SELECT min(task_id), max(task_id) FROM translation.tasks").fetchall()
        connection.execute("UPDATE translation.tasks SET tokens = tokens + 1 WHERE task_id = %s", [first])
        connection.execute("DELETE FROM translation.tasks WHERE task_id = %s", [second])
        connection.execute(
            "INSERT INTO translation.tasks (task_id, session_id) SELECT 'x', max(session_id) FROM translation.tasks"
        )

    after = run_comparison(database_url)

    rows = int(summary["sessions"] + summary["tasks"])
    counts = {"sessions": FILES, "tasks": summary["tasks"]}
    assert before == (0, {"stored": rows, "lost": 0, "extra": 0, "mismatched": 0} | counts)
    assert after == (1, {"stored": rows - 1, "lost": 1, "extra": 1, "mismatched": 1} | counts)


def test_tables_of_somebody_else_are_left_alone(database_url, valkey_url, tmp_path):
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("INSERT INTO translation.sessions (session_id) VALUES ('ours')")

    done = run_demo(tmp_path, PENSTOCK_DATABASE_URL=database_url, PENSTOCK_BROKER_URL=valkey_url)

    assert done.returncode == 2
    assert "not the demo's (ours)" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_broker_is_told_in_one_line(database_url, tmp_path):
    done = run_demo(tmp_path, PENSTOCK_DATABASE_URL=database_url, PENSTOCK_BROKER_URL="redis://127.0.0.1:1/0")

    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("penstock: the broker cannot be reached")
    assert "Traceback" not in done.stderr
