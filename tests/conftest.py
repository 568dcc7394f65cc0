"""
Servers for tests, started when the first test asks for one and ended with the session.

Every worker of pytest-xdist has its own. A server that cannot be had skips its tests on a laptop and fails them in CI.
"""

from __future__ import annotations

import math
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from kombu import pools

from penstock_worker.errors import ConfigurationError
from tests.servers.databases import PostgresServer, database_of
from tests.servers.memory import quick_folder
from tests.servers.rabbitmq import RabbitServer, find_program
from tests.servers.valkey import ValkeyServer

# The same examples everywhere, however slow the machine is; tests that search for new ones say so themselves.
settings.register_profile("penstock", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("penstock")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Each worker of pytest-xdist begins with its share of the acceptance tests, file by file: they are the long ones, and the
    last of them would find all other workers idle.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    files: dict[Path, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("acceptance"):
            files[item.path].append(item)
    shares: list[list[pytest.Item]] = [[] for _ in range(workers)]
    for file in sorted(files.values(), key=len, reverse=True):
        min(shares, key=len).extend(file)
    others = iter([item for item in items if item.path not in files])
    each = math.ceil(len(items) / workers)
    items[:] = [item for share in shares for item in (*share, *islice(others, max(0, each - len(share))))]


@pytest.fixture(autouse=True)
def spool_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of this test only: what one test leaves there on purpose, another would adopt."""
    folder = tmp_path_factory.getbasetemp() / "spool" / uuid4().hex
    monkeypatch.setenv("PENSTOCK_SPOOL_FOLDER", str(folder))
    return folder


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    with quick_folder(tmp_path_factory.mktemp("postgres")) as folder:
        server = PostgresServer(folder, is_synced=False)
        try:
            start_or_skip(server)
            yield server
        finally:
            server.clean_up()


@pytest.fixture(scope="session")
def template_database(postgres_server: PostgresServer) -> str:
    """The name of a migrated database that every test's own is a copy of."""
    from penstock_migrations.run import upgrade
    from penstock_schemas.registry import load_registry

    url = postgres_server.create_database()
    upgrade(url, load_registry(()))
    return database_of(url)


@pytest.fixture
def database_url(postgres_server: PostgresServer, template_database: str) -> Iterator[str]:
    """A migrated database of the test's own."""
    url = postgres_server.create_database(template_database)
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def empty_database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database of the test's own without any table."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def fresh_connections() -> None:
    """kombu keeps connections by URL for the whole process; those of an earlier test may lead to a server that it killed."""
    pools.reset()


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    try:
        start_or_skip(server)
        yield server
    finally:
        server.clean_up()


@pytest.fixture
def valkey_url(valkey_server: ValkeyServer, fresh_connections: None) -> str:
    """An empty Valkey."""
    valkey_server.empty()
    return valkey_server.url


@pytest.fixture(scope="session")
def rabbitmq_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    if find_program() is None:
        skip_or_fail("rabbitmq-server is not installed; `make setup` as root installs it where apt-get is")
    server = RabbitServer(tmp_path_factory.mktemp("rabbitmq"))
    try:
        start_or_skip(server)
        yield server
    finally:
        server.clean_up()


@pytest.fixture
def rabbitmq_url(rabbitmq_server: RabbitServer) -> Iterator[str]:
    """A RabbitMQ virtual host of the test's own."""
    url = rabbitmq_server.create_vhost()
    yield url
    rabbitmq_server.drop_vhost(url)


@pytest.fixture(scope="session")
def promtool() -> str:
    """What checks rules of Prometheus, and runs their tests."""
    return find_or_skip("promtool", "prometheus")


@pytest.fixture(scope="session")
def prometheus_program() -> str:
    return find_or_skip("prometheus", "prometheus")


@pytest.fixture(scope="session")
def chromium_program() -> str:
    return find_or_skip("chromium", "chromium")


@pytest.fixture(params=["redis", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def broker_url(request: pytest.FixtureRequest) -> str:
    """Each broker in turn, empty."""
    name = "valkey_url" if request.param == "redis" else "rabbitmq_url"
    url: str = request.getfixturevalue(name)
    return url


@pytest.fixture
def broker_server(broker_url: str, request: pytest.FixtureRequest) -> ValkeyServer | RabbitServer:
    """The server behind `broker_url`, for tests that stop it."""
    name = "valkey_server" if broker_url.startswith("redis") else "rabbitmq_server"
    server: ValkeyServer | RabbitServer = request.getfixturevalue(name)
    return server


def start_or_skip(server: PostgresServer | ValkeyServer | RabbitServer) -> None:
    try:
        server.start()
    except ConfigurationError as exc:
        skip_or_fail(str(exc))


def find_or_skip(program: str, package: str) -> str:
    """Where a program of a Debian package is."""
    if (path := shutil.which(program)) is None:
        skip_or_fail(f"{program} is not installed; `make setup` as root installs Debian's {package} where apt-get is")
    return path


def skip_or_fail(reason: str) -> NoReturn:
    """On a laptop a test without its server is skipped; in CI it would be a test that nobody runs."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
