"""A batch is a real Celery task: where it runs, who talks to the database, and what Celery's own tools show of it."""

from __future__ import annotations

import base64
import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pytest_celery import CeleryTestSetup

from penstock_worker.settings import Settings
from penstock_worker.stack.commands import flower_command
from penstock_worker.stack.ports import LOOPBACK, find_free_port
from tests.acceptance.witness import Witness, until
from tests.servers.celery_worker import Failpoints, WorkerProcess, worker_settings
from tests.servers.process import LocalProcess

pytestmark = pytest.mark.acceptance

#: Of Flower.
LOGIN = "user:password"


@pytest.fixture
def backlog(witness: Witness, worker_options: dict[str, object]) -> Witness:
    """What fills a batch of a worker with one child."""
    worker_options.update(concurrency=1, batch_max_age_s=1)
    witness.publish(100)
    return witness


@pytest.mark.parametrize("failpoints", ["before_commit=wait"], indirect=True)
def test_a_batch_runs_in_the_pool_child_whose_session_writes_it(
    backlog: Witness, failpoints: Failpoints, armed_setup: CeleryTestSetup
) -> None:
    worker: WorkerProcess = armed_setup.worker.container
    until(lambda: failpoints.has_struck("before_commit"))

    (task,) = _inspect(armed_setup, "active")
    assert (task["name"], task["args"]) == ("penstock.write_batch", "<100 events in 5 messages, 0.0 MB>")
    assert task["worker_pid"] in {child.pid for child in worker.children()}
    ((port,),) = backlog.query(
        "SELECT client_port FROM pg_stat_activity WHERE application_name = 'penstock' AND state = 'idle in transaction'"
    )
    assert port in _ports_to_postgres(psutil.Process(task["worker_pid"]), backlog)
    assert _ports_to_postgres(psutil.Process(worker.pid), backlog) == set()
    assert [queue["name"] for queue in _inspect(armed_setup, "active_queues")] == ["penstock.maintenance", "penstock.events"]

    failpoints.release("before_commit")
    backlog.wait_until_told()
    backlog.assert_all_stored()


def test_the_main_process_never_talks_to_the_database(witness: Witness, celery_setup: CeleryTestSetup) -> None:
    worker: WorkerProcess = celery_setup.worker.container
    main = psutil.Process(worker.pid)
    with witness.producer() as producer:
        for _ in range(10):
            for _ in range(100):
                witness.publish_one(producer)
            assert producer.flush(30)
            assert _ports_to_postgres(main, witness) == set()
    witness.wait_until_told()
    assert any(_ports_to_postgres(child, witness) for child in worker.children())


def _inspect(setup: CeleryTestSetup, command: str) -> Any:
    """What the worker answers; asked by name, so that nobody waits for others to answer as well."""
    hostname = setup.worker.hostname()
    return getattr(setup.app.control.inspect(destination=[hostname], timeout=60), command)()[hostname]


@pytest.fixture
def flower(broker_url: str, database_url: str, tmp_path: Path) -> Iterator[str]:
    """The address of a Flower that watches the broker."""
    port = find_free_port()
    address = f"http://{LOOPBACK}:{port}"
    process = LocalProcess(
        "flower",
        [*flower_command(Settings(broker_url=broker_url), LOOPBACK, port)],
        log=tmp_path / "flower.log",
        env={"PENSTOCK_BROKER_URL": broker_url, "PENSTOCK_DATABASE_URL": database_url, "PENSTOCK_FLOWER_LOGIN": LOGIN},
        cwd=tmp_path,
        ready=lambda process: "Visit me at" in process.logs() and "Connected to" in process.logs(),
    )
    try:
        process.start()
        yield address
    finally:
        process.clean_up()


def test_flower_lists_batches_with_their_counts(flower: str, witness: Witness, celery_setup: CeleryTestSetup) -> None:
    until(lambda: celery_setup.worker.hostname() in _get(f"{flower}/workers?json=1"))  # from now on it hears of everything
    with witness.producer() as producer:
        for _ in range(60):
            witness.publish_one(producer)
        with_a_bad_one = b'{"type":"no.such","op":"upsert","version":1,"data":{}}'
        producer._outbox.accept(with_a_bad_one)
    until(lambda: sum(witness.outcomes().values()) == 61)

    tasks = until(lambda: _succeeded(flower))
    assert {task["worker"] for task in tasks} == {celery_setup.worker.hostname()}
    assert all(task["args"].startswith("<") and " events in " in task["args"] for task in tasks)
    assert all(task["runtime"] > 0 for task in tasks)
    until(lambda: _counts(_succeeded(flower)) == {"stored": 60, "held": 1})
    until(lambda: _queues(flower)["penstock.events"] == {"messages": 0, "messages_ready": 0, "messages_unacknowledged": 0})


def _queues(flower: str) -> dict[str, dict[str, int]]:
    """What its broker page shows, but for the consumers, which Redis does not know."""
    rows = json.loads(_get(f"{flower}/api/queues/length"))["active_queues"]
    return {row.pop("name"): {name: value for name, value in row.items() if name != "consumers"} for row in rows}


def _succeeded(flower: str) -> list[dict[str, Any]]:
    tasks = json.loads(_get(f"{flower}/api/tasks?taskname=penstock.write_batch&limit=100"))
    return [task for task in tasks.values() if task["state"] == "SUCCESS"]


def _get(url: str) -> str:
    login = base64.b64encode(LOGIN.encode()).decode()
    request = urllib.request.Request(url, headers={"Authorization": f"Basic {login}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def _counts(tasks: list[dict[str, Any]]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for task in tasks:
        result = eval(task["result"])  # celery shows it as a repr
        for outcome, count in result.items():
            if outcome not in ("ms", "in_blocks"):
                totals[outcome] = totals.get(outcome, 0) + count
    return totals


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_another_pool_is_refused(pool: str, valkey_url: str, database_url: str, tmp_path: Path) -> None:
    environment = worker_settings(database_url, valkey_url, Failpoints(tmp_path, ""), {})
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "penstock_worker.app",
        "worker",
        "--pool",
        pool,
        "-Q",
        "penstock.maintenance",
    ]
    process = LocalProcess("worker", command, log=tmp_path / "worker.log", env=environment, cwd=tmp_path)
    process.start()
    try:
        until(lambda: not process.is_running)
        assert process.exit_code not in (0, None)
        said = [line for line in process.logs().splitlines() if "penstock needs the prefork pool" in line]
        assert len(said) == 1
        assert "Traceback" not in process.logs()
    finally:
        process.clean_up()


def _ports_to_postgres(process: psutil.Process, witness: Witness) -> set[int]:
    """The client ports of a process's connections to the test's PostgreSQL."""
    server = witness.database_port
    return {c.laddr.port for c in process.net_connections("tcp") if c.raddr and c.raddr.port == server}
