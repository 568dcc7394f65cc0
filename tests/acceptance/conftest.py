"""
pytest-celery's fixtures over local processes: its three cluster fixtures are overridden, the rest is its own.

Not overridden, the same tests would run on containers.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_celery import CeleryBrokerCluster, CeleryTestBroker, CeleryTestSetup, CeleryTestWorker, CeleryWorkerCluster

from tests.acceptance.witness import Witness
from tests.servers.celery_worker import Failpoints, WorkerProcess, worker_settings
from tests.servers.rabbitmq import RabbitServer
from tests.servers.valkey import ValkeyServer


class BrokerNode:
    """What pytest-celery asks a broker's container, answered for a server of ours."""

    status = "running"

    def __init__(self, server: ValkeyServer | RabbitServer, url: str) -> None:
        self.server, self.name, self.id = server, server.name, server.name
        self.celeryconfig = {"url": url, "host_url": url}

    def ready(self, timeout: float = 180) -> bool:
        self.server.wait_ready(timeout)
        return True

    def logs(self) -> str:
        return self.server.logs()

    def restart(self, timeout: float = 120) -> None:
        self.server.stop(timeout)
        self.server.start()

    def teardown(self) -> None:
        """Nothing: the server is the session's."""


class WorkerNode(CeleryTestWorker):  # type: ignore[misc]  # pytest-celery has no types
    """A worker of ours under pytest-celery's interface."""

    container: WorkerProcess

    @property
    def worker_name(self) -> str:
        return self.container.name

    @property
    def worker_queue(self) -> str:
        return "penstock.events"

    def hostname(self) -> str:
        return self.container.hostname


@pytest.fixture
def celery_broker_cluster(broker_url: str, broker_server: ValkeyServer | RabbitServer) -> CeleryBrokerCluster:
    return CeleryBrokerCluster(CeleryTestBroker(BrokerNode(broker_server, broker_url)))


@pytest.fixture
def celery_backend_cluster() -> None:
    """None: Penstock keeps no results."""


@pytest.fixture
def celery_worker_cluster(celery_setup_app: Any, new_worker: Callable[[], WorkerProcess]) -> CeleryWorkerCluster:
    """One worker, running. What a test published before it asks for `celery_setup` is its backlog."""
    worker = new_worker()
    worker.start()
    return CeleryWorkerCluster(WorkerNode(worker, celery_setup_app))


@pytest.fixture
def failpoints(tmp_path: Path, request: pytest.FixtureRequest) -> Failpoints:
    """A test's failpoints; their actions come by indirect parametrisation."""
    return Failpoints(tmp_path, getattr(request, "param", ""))


@pytest.fixture
def armed_setup(backlog: Witness, failpoints: Failpoints, request: pytest.FixtureRequest) -> CeleryTestSetup:
    """First the module's `backlog`, then the failpoints, then the worker: so its first batch is full, and is struck."""
    del backlog
    for name in failpoints.names:
        failpoints.arm(name)
    setup: CeleryTestSetup = request.getfixturevalue("celery_setup")
    return setup


@pytest.fixture
def worker_options() -> dict[str, object]:
    """Settings of the worker that differ from the usual ones; tests fill it before they start one."""
    return {}


@pytest.fixture
def new_worker(
    database_url: str, broker_url: str, failpoints: Failpoints, worker_options: dict[str, object], tmp_path: Path
) -> Iterator[Callable[[], WorkerProcess]]:
    """Makes workers that are not started yet; they end with the test."""
    workers: list[WorkerProcess] = []

    def make() -> WorkerProcess:
        environment = worker_settings(database_url, broker_url, failpoints, worker_options)
        workers.append(WorkerProcess(f"w{uuid.uuid4().hex[:8]}", tmp_path, environment))
        return workers[-1]

    yield make
    for worker in workers:
        worker.clean_up()


@pytest.fixture
def witness(database_url: str, broker_url: str) -> Iterator[Witness]:
    """Publishes, and knows afterwards whether each event is where it belongs."""
    with Witness(database_url, broker_url) as witness:
        yield witness
