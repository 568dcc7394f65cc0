"""The bench runs, checks what it measures, and says what it measured on; the figures of so small a run mean nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.acceptance

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("broker", ["redis", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def test_drain(broker, request):
    if broker == "rabbitmq":
        request.getfixturevalue("rabbitmq_server")  # skips or fails where there is none

    done = subprocess.run(
        [sys.executable, "-m", "bench", "drain", "--broker", broker, "--events", "2000", "--rounds", "1", "--json"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    shape = {"name": "drain", "broker": broker, "events": 2000, "rounds": 1, "rows": 2000}
    assert {name: result[name] for name in shape} == shape
    assert result["ratio"] == pytest.approx(result["events_per_s"] / result["copy_rows_per_s"], abs=0.01)
    assert (result["fsync"], result["synchronous_commit"]) == ("on", "on")
    assert "FOREIGN KEY (session_id) REFERENCES translation.sessions(session_id)" in result["indexes"]
    assert {"postgresql", "broker", "celery", "kombu", "psycopg", "pydantic", "python"} == result["versions"].keys()
