"""
What every bench needs: servers of its own, a worker as shipped, a queue to fill, and words about what it ran on.

Servers are private and begin empty, in a temporary folder; nothing that runs elsewhere is touched.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import redis
from kombu.connection import Connection
from kombu.entity import Exchange
from kombu.messaging import Producer

from bench.workload import Message
from penstock_schemas import topology
from penstock_schemas.wire import CONTENT_TYPE, QUEUE
from penstock_worker.stack.postgres import EmbeddedPostgres
from penstock_worker.stack.process import ManagedProcess
from penstock_worker.stack.valkey import EmbeddedValkey
from tests.servers.rabbitmq import RabbitServer, find_program

BROKERS = ("redis", "rabbitmq")
#: How often the queue's depth and the ledger are looked at: the clock's grain.
POLL_S = 0.01
_WORKER_START_S = 60.0
_STALL_S = 300.0
_COPY_CHUNK_BYTES = 1024 * 1024


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
    database_url: str
    folder: Path
    connection: psycopg.Connection[tuple[Any, ...]]
    load_at_start: float

    @property
    def environment(self) -> dict[str, str]:
        """For programs; nothing but the addresses, so settings are the shipped ones."""
        return {"PENSTOCK_BROKER_URL": self.broker_url, "PENSTOCK_DATABASE_URL": self.database_url}

    def value(self, query: str) -> Any:
        """The first column of the first row."""
        row = self.connection.execute(query).fetchone()
        return None if row is None else row[0]


@contextmanager
def site(broker: str) -> Iterator[Site]:
    """Start the servers, migrate, and stop all at the end."""
    refuse_foreign_settings()
    load = round(os.getloadavg()[0], 2)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="penstock-bench-")))
        postgres = EmbeddedPostgres(folder / "postgres")
        stack.callback(postgres.stop)
        postgres.start()
        url = stack.enter_context(_valkey(folder) if broker == "redis" else _rabbitmq(folder))
        connection = stack.enter_context(psycopg.connect(postgres.url, autocommit=True))
        place = Site(broker, url, postgres.url, folder, connection, load)
        run_penstock(place, "migrate", "up")
        yield place


@contextmanager
def _valkey(folder: Path) -> Iterator[str]:
    server = EmbeddedValkey(folder / "valkey")
    try:
        server.start()
        yield server.url
    finally:
        server.stop()


@contextmanager
def _rabbitmq(folder: Path) -> Iterator[str]:
    (folder / "rabbitmq").mkdir()
    if find_program() is None:
        sys.exit("rabbitmq-server is not installed")
    server = RabbitServer(folder / "rabbitmq")
    try:
        server.start()
        yield server.create_vhost()
    finally:
        server.clean_up()


def refuse_foreign_settings() -> None:
    """Shipped defaults are what is measured."""
    changed = sorted(name for name in os.environ if name.startswith("PENSTOCK_"))
    if changed:
        sys.exit(f"unset {', '.join(changed)}: the bench measures the defaults, on servers of its own")


class PenstockCommand(ManagedProcess):
    """`penstock ...` with the site's addresses."""

    def __init__(self, place: Site, *words: str) -> None:
        log = place.folder / f"{words[0]}.log"
        super().__init__(f"penstock {words[0]}", log=log, env=place.environment, cwd=place.folder)
        self._words = words

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "penstock_worker", *self._words]


def run_penstock(place: Site, *words: str) -> None:
    """Run a command to its end."""
    process = PenstockCommand(place, *words)
    process.launch()
    process.wait_until(lambda: not process.is_running, _WORKER_START_S)
    if process.exit_code:
        sys.exit(f"penstock {' '.join(words)}: {process.last_words()}")


@contextmanager
def worker(place: Site) -> Iterator[ManagedProcess]:
    """One worker as shipped, stopped at the end."""
    process = PenstockCommand(place, "worker")
    process.launch()
    try:
        yield process
    finally:
        process.stop()


class Backlog:
    """The queue as producers and operators see it."""

    def __init__(self, place: Site) -> None:
        self._place = place
        self._connection = Connection(place.broker_url, transport_options={"confirm_publish": True})
        self._channel = self._connection.channel()
        self._redis = redis.Redis.from_url(place.broker_url) if place.broker == "redis" else None
        if self._redis is None:
            for name, arguments in topology.queues(QUEUE).items():
                self._channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)

    def put(self, messages: Sequence[Message]) -> None:
        """Publish, confirmed."""
        producer = Producer(self._channel, exchange=Exchange(""), auto_declare=False)
        for message in messages:
            producer.publish(
                message.body,
                exchange="",
                routing_key=QUEUE,
                headers=message.headers,
                content_type=CONTENT_TYPE,
                content_encoding="binary",
                delivery_mode=2,
            )

    def depth(self) -> int:
        """Messages that wait; those that a worker has taken are not counted."""
        if self._redis is not None:
            return int(self._redis.llen(QUEUE))
        return int(self._channel.queue_declare(QUEUE, passive=True).message_count)

    def close(self) -> None:
        """Close the connections."""
        self._connection.release()
        if self._redis is not None:
            self._redis.close()


def timed_drain(place: Site, backlog: Backlog, events: int) -> float:
    """
    Start a worker on a filled queue and give the seconds until the last event is committed.

    The clock starts at the last look at the queue that found it full, that is, at most 10 ms before the worker took its first
    message. Starting Python, Celery and the pool is left out; the children's first connections, staging tables and validators
    are in. The clock stops at the first look at the ledger that finds all events, and so sees the rows: they are in the same
    transactions.
    """
    full = backlog.depth()
    with worker(place) as process:
        started = _last_time(lambda: backlog.depth() == full, process, "took nothing")
        _last_time(lambda: ended_events(place) < events, process, "does not come to the end")
        return time.perf_counter() - started


def ended_events(place: Site) -> int:
    """Events that the ledger knows, however they ended."""
    return int(place.value("SELECT coalesce(sum(upper(seqs) - lower(seqs)), 0) FROM penstock.ledger"))


def _last_time(holds: Callable[[], bool], process: ManagedProcess, complaint: str) -> float:
    """When the condition was last seen to hold."""
    deadline = time.perf_counter() + _STALL_S
    seen = time.perf_counter()
    while holds():
        seen = time.perf_counter()
        if seen > deadline or not process.is_running:
            raise RoundVoid(f"the worker {complaint}: {process.last_words()}")
        time.sleep(POLL_S)
    return seen


def copy_rows(place: Site, table: str, columns: str, lines: bytes) -> float:
    """Seconds that COPY of these lines takes over one connection, its COMMIT included."""
    view = memoryview(lines)
    started = time.perf_counter()
    with place.connection.cursor().copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
        for first in range(0, len(view), _COPY_CHUNK_BYTES):
            copy.write(view[first : first + _COPY_CHUNK_BYTES])
    return time.perf_counter() - started


def export_rows(place: Site, table: str, columns: str) -> bytes:
    """The table as COPY's text, in the order in which the rows lie there."""
    with place.connection.cursor().copy(f"COPY {table} ({columns}) TO STDOUT") as copy:
        return b"".join(bytes(block) for block in copy)


def spread(values: Sequence[float], digits: int = 0) -> list[float]:
    """The lowest and the highest."""
    return [round(min(values), digits), round(max(values), digits)]


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def describe(place: Site) -> dict[str, Any]:
    """What the figures hold for: durability and versions."""
    return {
        "fsync": place.value("SHOW fsync"),
        "synchronous_commit": place.value("SHOW synchronous_commit"),
        "versions": {
            "python": platform.python_version(),
            "postgresql": place.value("SHOW server_version"),
            "broker": _broker_version(place),
            **{name: version(name) for name in ("celery", "kombu", "psycopg", "pydantic")},
        },
        "cores": os.cpu_count(),
        "load_at_start": place.load_at_start,
    }


def _broker_version(place: Site) -> str:
    if place.broker == "redis":
        with redis.Redis.from_url(place.broker_url) as client:
            server: Any = client.info("server")
        return f"{server.get('server_name', 'redis')} {server.get('valkey_version', server['redis_version'])}"
    with Connection(place.broker_url) as connection:
        connection.connect()
        return f"rabbitmq {connection.connection.server_properties['version']}"
