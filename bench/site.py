"""
Where a bench runs: servers of its own, empty at the start, in a temporary folder. Nothing that runs elsewhere is touched.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import psycopg
import redis
from kombu.connection import Connection

from bench.phases import Phases
from penstock_migrations.run import upgrade
from penstock_schemas.registry import load_registry
from penstock_worker.stack.postgres import EmbeddedPostgres
from penstock_worker.stack.process import ManagedProcess
from penstock_worker.stack.valkey import EmbeddedValkey
from tests.servers.rabbitmq import RabbitServer, find_program

__all__ = ["BROKERS", "RoundVoid", "Site", "describe", "site"]

BROKERS = ("redis", "rabbitmq")
#: Those whose version a figure may depend on.
_LIBRARIES = ("penstock", "celery", "kombu", "redis", "hiredis", "amqp", "psycopg", "pydantic", "msgspec")


class RoundVoid(Exception):  # noqa: N818  # it is a finding
    """Raised when a round must not count: rows or checksums are not what they must be."""


@dataclass(frozen=True, slots=True)
class Site:
    """
    The servers of a run and a connection that measures and prepares.

    `load_at_start` is the machine's load average before anything of ours ran: above a few tenths, the figures are others' too.
    """

    broker: str
    broker_url: str
    broker_server: ManagedProcess
    database_url: str
    postgres: EmbeddedPostgres
    folder: Path
    connection: psycopg.Connection[tuple[Any, ...]]
    load_at_start: float
    phases: Phases = field(default_factory=Phases)

    @property
    def environment(self) -> dict[str, str]:
        """For programs; nothing but the addresses, so settings are the shipped ones."""
        return {"PENSTOCK_BROKER_URL": self.broker_url, "PENSTOCK_DATABASE_URL": self.database_url}

    @property
    def database(self) -> str:
        """The database's name."""
        return urlsplit(self.database_url).path.lstrip("/")

    def value(self, query: str, parameters: list[Any] | None = None) -> Any:
        """The first column of the first row."""
        row = self.connection.execute(query, parameters).fetchone()
        return None if row is None else row[0]

    @contextmanager
    def other_database(self, name: str) -> Iterator[Site]:
        """The same servers with another database of theirs."""
        url = self.postgres.url_of(name)
        with psycopg.connect(url, autocommit=True) as connection:
            yield replace(self, database_url=url, connection=connection)


@contextmanager
def site(broker: str) -> Iterator[Site]:
    """Start the servers, migrate, and stop all at the end."""
    _refuse_foreign_settings()
    load = round(os.getloadavg()[0], 2)
    phases = Phases()
    with ExitStack() as stack, ExitStack() as starting:
        starting.enter_context(phases.of("starting servers"))
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="penstock-bench-")))
        postgres = EmbeddedPostgres(folder / "postgres")
        stack.callback(postgres.stop)
        postgres.start()
        server, url = stack.enter_context(_valkey(folder) if broker == "redis" else _rabbitmq(folder))
        connection = stack.enter_context(psycopg.connect(postgres.url, autocommit=True))
        place = Site(broker, url, server, postgres.url, postgres, folder, connection, load, phases)
        upgrade(postgres.url, load_registry(()))
        starting.close()
        yield place


@contextmanager
def _valkey(folder: Path) -> Iterator[tuple[ManagedProcess, str]]:
    server = EmbeddedValkey(folder / "valkey")
    try:
        server.start()
        yield server, server.url
    finally:
        server.stop()


@contextmanager
def _rabbitmq(folder: Path) -> Iterator[tuple[ManagedProcess, str]]:
    (folder / "rabbitmq").mkdir()
    if find_program() is None:
        sys.exit("rabbitmq-server is not installed")
    server = RabbitServer(folder / "rabbitmq")
    try:
        server.start()
        yield server, server.create_vhost()
    finally:
        server.clean_up()


def _refuse_foreign_settings() -> None:
    """Shipped defaults are what is measured."""
    changed = sorted(name for name in os.environ if name.startswith("PENSTOCK_"))
    if changed:
        sys.exit(f"unset {', '.join(changed)}: the bench measures the defaults, on servers of its own")


def describe(place: Site) -> dict[str, Any]:
    """What the figures hold for: durability and versions."""
    return {
        **{name: place.value(f"SHOW {name}") for name in ("fsync", "synchronous_commit", "full_page_writes", "wal_level")},
        "broker_durability": _broker_durability(place),
        "versions": {
            "python": platform.python_version(),
            "postgresql": place.value("SHOW server_version"),
            "broker": _broker_version(place),
            **{name: version(name) for name in _LIBRARIES},
        },
        "cores": os.cpu_count(),
        "load_at_start": place.load_at_start,
    }


def _broker_durability(place: Site) -> str:
    if place.broker == "redis":
        with redis.Redis.from_url(place.broker_url) as client:
            settings: Any = client.config_get("append*")
        return f"appendonly {settings['appendonly']}, appendfsync {settings['appendfsync']}"
    return "quorum queue, persistent messages"


def _broker_version(place: Site) -> str:
    if place.broker == "redis":
        with redis.Redis.from_url(place.broker_url) as client:
            server: Any = client.info("server")
        return f"{server.get('server_name', 'redis')} {server.get('valkey_version', server['redis_version'])}"
    with Connection(place.broker_url) as connection:
        connection.connect()
        return f"rabbitmq {connection.connection.server_properties['version']}"
