"""The README's first event: the file runs, and is what the README shows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from tests.servers.process import LocalProcess

pytestmark = pytest.mark.acceptance

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "first_event.py"
PENSTOCK = [sys.executable, "-m", "penstock_worker"]


def test_the_readme_shows_the_file():
    text = EXAMPLE.read_text()

    assert f"```python\n{text}```" in (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 30


def test_a_first_event_is_stored(database_url, broker_url, tmp_path):
    shutil.copy(EXAMPLE, tmp_path)
    settings = {
        "PENSTOCK_DATABASE_URL": database_url,
        "PENSTOCK_BROKER_URL": broker_url,
        "PENSTOCK_RECORDS": "first_event",
        "PENSTOCK_MIGRATIONS": "first_event=migrations",
    }
    for words in (
        [*PENSTOCK, "migrate", "create", "-m", "invoices"],
        [*PENSTOCK, "migrate", "up"],
        [sys.executable, EXAMPLE.name],
    ):
        subprocess.run(words, cwd=tmp_path, env=os.environ | settings, check=True, timeout=120)
    worker = LocalProcess("worker", [*PENSTOCK, "worker"], log=tmp_path / "worker.log", env=settings, cwd=tmp_path)

    worker.start()
    try:
        row = wait_for_row(
            database_url, "SELECT invoice_id, customer, total_cents, is_paid FROM billing.invoices WHERE is_paid"
        )
    finally:
        worker.clean_up()

    assert row == ("2026-17", "Ada", 12_900, True), worker.logs()


def wait_for_row(database_url: str, query: str, within_s: float = 120) -> tuple[object, ...] | None:
    deadline = time.monotonic() + within_s
    with psycopg.connect(database_url, autocommit=True) as connection:
        while time.monotonic() < deadline:
            row = connection.execute(query).fetchone()
            if row:
                return row
            connection.execute("SELECT pg_sleep(0.05)")
    return None
