"""Sessions whose service was killed are found, once, and another service goes on with them."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from penstock_schemas.registry import load_registry
from penstock_worker.maintenance.announce import open_announcer
from penstock_worker.maintenance.job import run_job
from penstock_worker.maintenance.jobs import all_jobs
from penstock_worker.settings import Settings
from tests.acceptance.witness import Witness, until
from tests.servers.celery_worker import WorkerProcess
from tests.servers.process import LocalProcess

pytestmark = pytest.mark.acceptance

EXAMPLE = Path(__file__).parents[2] / "examples" / "resume_sessions.py"

#: Two sessions of two tasks each, of which one is done and the other is under way when the service is killed.
SERVICE = """
import sys, time
from penstock_producers import Producer
from penstock_schemas.records.translation import TranslationSession, TranslationTask

producer = Producer(sys.argv[1], name="translator")
for session in ("s1", "s2"):
    producer.publish(TranslationSession(session_id=session, status="running"))
    for number, status in enumerate(("completed", "running")):
        task = f"{session}-t{number}"
        producer.publish(TranslationTask(task_id=task, session_id=session, status=status, source_text="hello"))
producer.publish(TranslationSession(session_id="s3", status="completed"))
assert producer.flush(60)
time.sleep(3600)
"""

States = Callable[[], dict[str, str]]


@pytest.fixture
def states(witness: Witness) -> States:
    """What is stored of sessions and tasks, by their keys."""
    return lambda: dict(
        witness.query(
            "SELECT session_id, status FROM translation.sessions WHERE _version IS NOT NULL"
            " UNION ALL SELECT task_id, status FROM translation.tasks"
        )
    )


@pytest.fixture
def killed_service(broker_url: str, tmp_path: Path, new_worker: Callable[[], WorkerProcess], states: States) -> Iterator[None]:
    """What it published is stored by a worker, which goes on working."""
    service = LocalProcess("service", [sys.executable, "-c", SERVICE, broker_url], log=tmp_path / "service.log", cwd=tmp_path)
    new_worker().start()
    service.start()
    try:
        until(lambda: len(states()) == 7)
        service.kill()
        assert service.exit_code == -signal.SIGKILL
        yield
    finally:
        service.clean_up()


def test_another_service_goes_on_with_what_a_killed_one_left(
    killed_service: None, witness: Witness, states: States, database_url: str, broker_url: str, tmp_path: Path
) -> None:
    environment = {"PENSTOCK_BROKER_URL": broker_url, "PENSTOCK_DATABASE_URL": database_url}
    settings = Settings(database_url=database_url, broker_url=broker_url)
    scan = scanner(settings)
    example = LocalProcess("example", [sys.executable, str(EXAMPLE)], log=tmp_path / "example.log", env=environment)
    example.start()
    try:
        until(lambda: "listening" in example.logs())
        with open_announcer(settings) as announcer:  # of long ago: the queue kept it, and the recovery is forgotten
            announcer.announce("translation.session", "incomplete", {"key": ["s0"], "recovery": 4711})
        until(lambda: "left 4711" in example.logs())
        # The scan itself asks the broker and the worker, who say that nothing is on its way; half an hour of this must pass.
        assert [scan(later)["found"] for later in (0, 14, 28, 42)] == [0, 0, 0, 2]
        until(lambda: example.logs().count("resumed") == 2)
    finally:
        example.clean_up()

    sessions = dict.fromkeys(["s1", "s1-t0", "s1-t1", "s2", "s2-t0", "s2-t1", "s3"], "completed")
    assert states() == sessions
    ended = "SELECT key ->> 0, outcome, offers FROM penstock.recoveries WHERE ended_at IS NOT NULL ORDER BY 1"
    assert witness.query(ended) == [("s1", "resumed", 1), ("s2", "resumed", 1)]
    assert witness.query("SELECT translated_text FROM translation.tasks WHERE task_id = 's1-t1'") == [("HELLO",)]
    assert scan(44)["found"] == 0


def scanner(settings: Settings) -> Callable[[float], dict[str, Any]]:
    """Scans at times that are so many minutes later than now."""
    start = datetime.now(UTC) + timedelta(minutes=1)

    def scan(minutes: float) -> dict[str, Any]:
        at = start + timedelta(minutes=minutes)
        done = run_job(all_jobs(settings)["recovery"], settings, load_registry(), started_by="test", now=lambda: at)
        assert done.state == "done"
        return done.counts

    return scan
