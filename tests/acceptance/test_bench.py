"""The bench runs, checks what it measures, and says what it measured on; the figures of so small a run mean nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import measure, parse
from bench.site import site

pytestmark = pytest.mark.acceptance

ROOT = Path(__file__).parents[2]


def test_drain():
    done = subprocess.run(
        [sys.executable, "-m", "bench", "drain", "--broker", "redis", "--events", "2000", "--rounds", "1", "--json"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    shape = {"name": "drain", "broker": "redis", "events": 2000, "rounds": 1, "rows": 2000}
    assert {name: result[name] for name in shape} == shape
    assert result["ratio"] == pytest.approx(result["events_per_s"] / result["copy_rows_per_s"], abs=0.01)
    assert (result["fsync"], result["synchronous_commit"]) == ("on", "on")
    assert "FOREIGN KEY (session_id) REFERENCES translation.sessions(session_id)" in result["indexes"]
    assert {"postgresql", "broker", "penstock", "celery", "redis", "psycopg", "msgspec", "python"} <= result["versions"].keys()


def test_others_on_one_site(monkeypatch):
    """Not all of them, for each starts workers; what they have in common is in these."""
    for name in os.environ.keys() & {"PENSTOCK_SPOOL_FOLDER"}:
        monkeypatch.delenv(name)  # the bench gives its producers a folder of its own

    small = ["--events", "1000", "--rounds", "1"]
    with site("redis") as place:
        results = {name: measure(place, parse([name, *small])) for name in ("latency", "pressure")}

    about = {"rows", "bytes_per_row", "indexes", "conflict_ratio", "fsync", "versions", "goals", "spread", "events_per_s"}
    assert [about - result.keys() for result in results.values()] == [set(), set()]
    assert 0 < results["latency"]["p50_ms"] <= results["latency"]["p99_ms"]
    single = results["pressure"]["one_insert_an_event"]
    assert results["pressure"]["transactions_per_1000_events"] < 100 < 1000 <= single["transactions"]
