"""
All that runs during a run of chaos, on servers of its own.

    writers --proxy--> broker <--proxy-- workers --proxy--> PostgreSQL
"""

from __future__ import annotations

import random
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg

from penstock_worker.stack.process import end_processes
from tests.chaos.checker import Key
from tests.chaos.events import Draft
from tests.chaos.log import Log, Published, last_status, read_log
from tests.chaos.plan import Broker
from tests.chaos.proxy import Proxy
from tests.chaos.state import RECORDS_MODULE, ROOT, create_tables
from tests.chaos.writer import LoggedProducer, make_producer
from tests.servers.celery_worker import Failpoints, WorkerProcess, worker_settings
from tests.servers.databases import PostgresServer
from tests.servers.process import Controls, LocalProcess
from tests.servers.rabbitmq import RabbitServer
from tests.servers.valkey import DurableValkey

__all__ = ["Canary", "Lent", "Shape", "Site", "Writer", "open_site"]

_FAILPOINTS = "after_copy=kill, before_commit=kill, after_commit=kill, before_ack=kill"


#: Seconds after a worker's start within which its children are left alone.
_SETTLED_S = 5.0


@dataclass(frozen=True, slots=True)
class Shape:
    """
    How much runs.

    Args:
        journal_writers: Producer processes whose events are on disk until they are answered.
        spill_writers: Those that keep them in memory until the broker has them.
        rate: Events a second of each.
        workers: Nodes.
        concurrency: Pool children of each.
        culprit_one_in: One site in so many is refused by the database.
        modules: Loaded by the workers beside the record types; a broken build is one.
    """

    journal_writers: int = 4
    spill_writers: int = 1
    rate: float = 50
    workers: int = 2
    concurrency: int = 2
    culprit_one_in: int = 100
    modules: Sequence[str] = ()


class Writer:
    """
    One place for a producer process: killed, it is followed by another.

    Args:
        spool: The folder for what is not answered.
        port: Of a proxy to the broker; what is spooled belongs to an address, so to this port.
        room: Bytes that the spool may take; None for plenty.
        events: How many it publishes; None for no end.
    """

    def __init__(
        self,
        site: Site,
        name: str,
        *,
        is_journaled: bool,
        spool: Path,
        port: int,
        room: int | None = None,
        events: int | None = None,
    ) -> None:
        self.name, self.is_journaled, self.spool, self.port = name, is_journaled, spool, port
        self._site, self._room, self._events = site, room, events
        self._starts = 0
        self.processes: list[LocalProcess] = []

    @property
    def process(self) -> LocalProcess:
        """The one that runs now."""
        return self.processes[-1]

    @property
    def log(self) -> Path:
        """The log of the one that runs now."""
        return self._log(self._starts)

    def _log(self, start: int) -> Path:
        return self._site.folder / f"{self.name}-{start}.log"

    def start(self) -> None:
        """Start a process and wait until it publishes."""
        self.launch()
        self.process.wait_ready(180)

    def launch(self) -> None:
        """Start a process, unless the run is being ended meanwhile."""
        if self._site.is_ending:
            return
        self._starts += 1
        mark = f"{self.name}-{self._starts}"
        url = with_port(self._site.broker_url, self.port)
        words = [sys.executable, "-m", "tests.chaos.writer", url, "--log", str(self.log), "--mark", mark]
        words += ["--seed", f"{self._site.seed} {mark}", "--rate", str(self._site.shape.rate), "--spool", str(self.spool)]
        words += ["--durability", "journal" if self.is_journaled else "spill", "--started-at", str(self._site.started_at)]
        words += ["--culprit-one-in", str(self._site.shape.culprit_one_in)]
        words += ["--room", str(self._room)] if self._room else []
        words += ["--events", str(self._events)] if self._events else []
        env = {"PYTHONPATH": str(ROOT)}
        process = LocalProcess(
            mark, words, log=self._site.folder / f"{mark}.out", env=env, cwd=ROOT, ready=lambda _: self._has_published()
        )
        self.processes.append(process)
        process.launch()

    def _has_published(self) -> bool:
        return self.log.exists() and self.log.stat().st_size > 0

    def end(self, within_s: float = 120) -> None:
        """SIGTERM, and wait until it has closed its producer."""
        if self.processes:
            self.process.stop(within_s)

    def status(self) -> dict[str, Any]:
        """What the producer last said of itself."""
        return last_status(self.log)

    def published(self) -> Iterator[Published]:
        """The events of all its processes."""
        for start in range(1, self._starts + 1):
            if self._log(start).exists():
                yield from read_log(
                    self._log(start), f"{self.name}-{start}", is_journaled=self.is_journaled, may_drop=self._room is not None
                )


class Look:
    """Looks into a database that may be away."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: psycopg.Connection[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()

    def has_mark(self, name: str) -> bool:
        """Whether a mark is stored."""
        try:
            if self._connection is None or self._connection.closed:
                self._connection = psycopg.connect(self._url, autocommit=True, connect_timeout=5)
            return self._connection.execute("SELECT FROM lab.marks WHERE mark_id = %s", [name]).fetchone() is not None
        except psycopg.Error:
            return False


class Canary:
    """Publishes an event when asked, and waits until it is stored: then everything works again."""

    def __init__(self, site: Site, spool: Path) -> None:
        self._path = site.folder / "canary.log"
        url = with_port(site.broker_url, site.to_broker.port)
        self._producer = make_producer(url, "canary", "journal", spool)
        self._writer = LoggedProducer(self._producer, Log(self._path))
        self._database_url = site.database_url
        self._lock = threading.Lock()
        self._count = 0

    def sing(self, within_s: float) -> float:
        """
        Publish an event and wait until it is stored.

        Returns:
            How many seconds that took.

        Raises:
            TimeoutError: It was not stored in time.
        """
        began = time.monotonic()
        with self._lock:
            self._count += 1
            name = f"canary-{self._count}"
            self._writer.publish(Draft("lab.mark", "upsert", time.time_ns() // 1_000, {"mark_id": name}))
        with Look(self._database_url) as look:
            while not look.has_mark(name):
                if time.monotonic() - began > within_s:
                    raise TimeoutError(f"an event published after the fault was not stored within {within_s:.0f} s")
                time.sleep(0.03)
        return time.monotonic() - began

    def end(self) -> None:
        """Close the producer."""
        self._producer.close(60)

    def published(self) -> Iterator[Published]:
        """What it published."""
        return read_log(self._path, "canary", is_journaled=True)


@dataclass
class Site:
    """Servers, proxies, workers and writers of one run; see `open_site`."""

    broker_name: Broker
    seed: int
    shape: Shape
    folder: Path
    database: PostgresServer
    #: Not through the proxy.
    database_url: str
    broker: DurableValkey | RabbitServer
    broker_url: str
    to_broker: Proxy
    from_broker: Proxy
    to_database: Proxy
    failpoints: Failpoints
    started_at: float = field(default_factory=time.time)
    workers: list[WorkerProcess] = field(default_factory=list)
    writers: list[Writer] = field(default_factory=list)
    #: Writers that ended: they were made to run out of room; and the proxies that led only them to the broker.
    past_writers: list[Writer] = field(default_factory=list)
    extra_proxies: list[Proxy] = field(default_factory=list)
    #: Events that were in a broker when it lost its data.
    wiped: set[Key] = field(default_factory=set)
    #: Of these, events that a message said were dropped.
    untold: set[Key] = field(default_factory=set)
    #: Pool children of killed workers, which see that a moment later.
    orphans: list[psutil.Process] = field(default_factory=list)
    is_ending: bool = False

    @property
    def spool(self) -> Path:
        """Where all writers keep what is not answered."""
        return self.folder / "spool"

    def draw(self, *words: object) -> random.Random:
        """Chance that depends on the seed and on nothing else."""
        return random.Random(" ".join(map(str, (self.seed, self.broker_name, *words))))

    def start(self) -> None:
        """Workers and writers."""
        options = {
            "concurrency": self.shape.concurrency,
            "records": ",".join((RECORDS_MODULE, *self.shape.modules)),
            "lease_s": 4,
            "batch_max_events": 300,
            "probe_s": 0.5,
        }
        database_url = with_port(self.database_url, self.to_database.port)
        settings = worker_settings(database_url, with_port(self.broker_url, self.from_broker.port), self.failpoints, options)
        for number in range(self.shape.workers):
            worker = WorkerProcess(f"worker{number}", self.folder, settings | {"PYTHONPATH": str(ROOT)})
            self.workers.append(worker)
            worker.launch()
        journal = [f"journal{number}" for number in range(self.shape.journal_writers)]
        spill = [f"spill{number}" for number in range(self.shape.spill_writers)]
        for name in [*journal, *spill]:
            self.writers.append(Writer(self, name, is_journaled=name in journal, spool=self.spool, port=self.to_broker.port))
            self.writers[-1].launch()
        for process in [*self.workers, *(writer.process for writer in self.writers)]:
            process.wait_ready(180)
        self.canary = Canary(self, self.spool)

    def children(self) -> list[psutil.Process]:
        """
        The pool children of all workers; none while a worker has not made all of its own.

        A child that dies before Celery's loop has begun ends its worker ("Could not start worker processes"), for a supervisor
        to start again. That is another fault than this one, so a worker that has just come up is left alone.
        """
        families = [worker.children() if worker.is_running and worker.is_ready() else [] for worker in self.workers]
        is_complete = all(len(family) >= self.shape.concurrency for family in families)
        settled = [
            psutil.Process(worker.pid).create_time() < time.time() - _SETTLED_S for worker in self.workers if is_complete
        ]
        return [child for family in families for child in family] if is_complete and all(settled) else []

    def bring_back(self, process: Controls) -> None:
        """
        Start a server or a worker again, unless the run is being ended meanwhile.

        A worker is not waited for: where the broker is away, it is ready only afterwards.
        """
        if not self.is_ending:
            (process.launch if process in self.workers else process.start)()

    def published(self) -> list[Published]:
        """Everything that any writer logged."""
        found = [one for writer in [*self.writers, *self.past_writers] for one in writer.published()]
        # A journal does not have what it dropped: who says so is a message, and it is told again only with events of the epoch.
        found = [replace(one, is_journaled=False) if one.key in self.untold else one for one in found]
        return found + list(self.canary.published())

    def spooled(self, folder: Path) -> list[Path]:
        """Files of events that are not answered yet."""
        return sorted(folder.glob("**/*.spool"))

    def waiting_messages(self) -> int:
        """Messages in the queue."""
        return self.broker.waiting(self.broker_url)

    def close(self) -> None:
        """End every process, whatever state it is in."""
        self.is_ending = True
        if hasattr(self, "canary"):
            self.canary.end()
        for writer in [*self.writers, *self.past_writers]:
            for process in writer.processes:
                process.clean_up()
        for worker in self.workers:
            worker.clean_up()
        end_processes(self.orphans, within_s=0)
        for proxy in self.extra_proxies:
            proxy.close()


def with_port(url: str, port: int) -> str:
    """The same URL with another port."""
    return re.sub(r":\d+/", f":{port}/", url)


@dataclass(frozen=True, slots=True)
class Lent:
    """Servers that run already and go on running; they are broken all the same."""

    database: PostgresServer
    database_url: str
    broker: RabbitServer | None = None


@contextmanager
def open_site(broker: Broker, seed: int, shape: Shape, folder: Path, lent: Lent | None = None) -> Iterator[Site]:
    """Start servers, but those that are lent, and proxies; at the end everything is stopped."""
    with ExitStack() as stack:
        database, database_url = (lent.database, lent.database_url) if lent else _open_database(stack, folder)
        create_tables(database_url)
        server: Any = lent.broker if lent and lent.broker else _open_broker(stack, broker, folder / broker)
        url = server.url if broker == "redis" else server.create_vhost()
        if broker == "rabbitmq":
            stack.callback(server.drop_vhost, url)
        ports = (_port(url), _port(url), database.endpoint.port)
        to_broker, from_broker, to_database = proxies = [Proxy(port) for port in ports]
        for proxy in proxies:
            stack.callback(proxy.close)
        proxied = (to_broker, from_broker, to_database)
        site = Site(broker, seed, shape, folder, database, database_url, server, url, *proxied, Failpoints(folder, _FAILPOINTS))
        stack.callback(site.close)
        yield site


def _open_database(stack: ExitStack, folder: Path) -> tuple[PostgresServer, str]:
    database = PostgresServer(folder / "postgres")
    stack.callback(database.clean_up)
    database.start()
    return database, database.url


def _open_broker(stack: ExitStack, name: Broker, folder: Path) -> DurableValkey | RabbitServer:
    folder.mkdir()
    server = DurableValkey(folder) if name == "redis" else RabbitServer(folder)
    stack.callback(server.clean_up)
    server.start()
    return server


def _port(url: str) -> int:
    found = re.search(r":(\d+)/", url)
    assert found is not None
    return int(found[1])


def _age_s(process: Controls) -> float:
    return time.time() - psutil.Process(process.pid).create_time()
