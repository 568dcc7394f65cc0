"""
Peers and Penstock, one after the other in every round, on the same servers with the same events.

Peers upsert into a table of their own, with the record's columns, its key, its foreign key and its index, without the
bookkeeping: they compare no versions, keep no ledger, and the last one wins. Their queue is filled while no worker runs; the
clock starts at the last look at the queue that finds it full (for the one that has no queue: at its first row) and stops when
all rows are there. How many processes each runs stands in its entry.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from bench.backlog import Backlog
from bench.figures import alternate, median, rates, spread
from bench.peers.environments import Environment, Unavailable, node_environment, own_environment, python_environment
from bench.race import drained_tasks, store
from bench.records import TASK_MD5_SQL, build_records, checksum
from bench.site import RoundVoid, Site, describe
from bench.table import Table
from bench.workers import until
from bench.workload import build_workload
from penstock_schemas.records.translation import TranslationTask
from penstock_worker.stack.process import ManagedProcess

EVENTS = 50_000
_FOLDER = Path(__file__).parent
_FILL_S = 600.0
#: Looks at the table are this far apart: they cost what they count.
_LOOK_S = 0.05


#: celery-batches allows no newer Celery.
CELERY_BATCHES = (
    "celery-batches==0.11",
    "celery[redis]==5.6.*",
    "sqlalchemy==2.0.*",
    "psycopg[binary]==3.3.*",
    "redis[hiredis]",
)
FASTSTREAM = ("faststream[redis]==0.7.8", "asyncpg==0.32.0", "uvloop==0.23.0", "orjson==3.13.0", "redis[hiredis]")
BULLMQ = ("bullmq@6.7.0", "pg@8.23.1", "ioredis@6.0.0")


@dataclass(frozen=True, slots=True)
class Peer:
    """
    One of them.

    Args:
        file: In this folder.
        what: In words.
        queue: The Redis list that it consumes; None where there is no queue.
        environment: Where it runs.
        processes: How many work; more than two where they wait for a COMMIT of each event most of the time.
        max_events: So slow that fewer must do.
    """

    file: str
    what: str
    queue: str | None
    environment: Callable[[], Environment]
    processes: int = 2
    max_events: int = EVENTS


PEERS = {
    "celery_tasks": Peer(
        "celery_tasks.py",
        "one Celery task an event, SQLAlchemy upsert",
        "peer.celery",
        own_environment,
        processes=4,
        max_events=5_000,
    ),
    "celery_batches": Peer(
        "celery_batches.py",
        "celery-batches, SQLAlchemy upsert of a batch",
        "peer.batches",
        lambda: python_environment("celery-batches", CELERY_BATCHES),
        max_events=10_000,
    ),
    "faststream_asyncpg": Peer(
        "faststream_asyncpg.py",
        "FastStream, batch subscriber, asyncpg",
        "peer.faststream",
        lambda: python_environment("faststream", FASTSTREAM),
    ),
    "psycopg_service": Peer(
        "psycopg_service.py", "synchronous psycopg upsert in the service", None, own_environment, processes=8
    ),
    "bullmq_pg": Peer("bullmq_pg.mjs", "BullMQ and pg on Node", "bull:peer:wait", lambda: node_environment("bullmq", BULLMQ)),
}
#: All but those two with a goal of their own.
THE_REST = ("faststream_asyncpg", "psycopg_service", "bullmq_pg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=list(PEERS), nargs="+", default=list(PEERS), help="these peers")


def measure(place: Site, arguments: argparse.Namespace) -> dict[str, Any]:
    """Medians of all, and how many times a peer's rate `drain` has."""
    if place.broker != "redis":
        raise SystemExit("peers are measured on Redis: FastStream's batches and BullMQ have it only")
    with place.phases.of("making events"):
        load = build_workload(arguments.events)
    _create_table(place)
    skipped: dict[str, str] = {}
    with closing(Backlog(place)) as backlog:
        store(place, backlog, load.sessions)
        drain = drained_tasks(place, backlog, load.tasks, load.events)
        contenders: dict[str, Callable[[], float]] = {"penstock": lambda: _penstock(place, drain, load.checksum)}
        events = {"penstock": load.events}
        for name in arguments.only:
            try:
                with place.phases.of("installing peers"):
                    environment = PEERS[name].environment()
            except Unavailable as exc:
                skipped[name] = str(exc)
                continue
            with place.phases.of("making events"):
                contender = _Contender(place, name, environment, min(PEERS[name].max_events, arguments.events))
            contenders[name], events[name] = contender.run, contender.events
        seconds = alternate(contenders, arguments.rounds)
    return _result(place, arguments, seconds, events, skipped)


def _result(
    place: Site,
    arguments: argparse.Namespace,
    seconds: Mapping[str, list[float]],
    events: Mapping[str, int],
    skipped: Mapping[str, str],
) -> dict[str, Any]:
    found = {name: rates(events[name], of_rounds) for name, of_rounds in seconds.items()}
    ours = median(found["penstock"])
    times = {name: round(ours / median(of_rounds), 2) for name, of_rounds in found.items() if name != "penstock"}
    rest = [times[name] for name in THE_REST if name in times]
    table = Table(place, "peers.tasks", TASK_MD5_SQL)
    return {
        "name": "peers",
        "broker": place.broker,
        "events": arguments.events,
        "rounds": arguments.rounds,
        "events_per_s": round(ours),
        "ratio": min(times.values(), default=None),
        "spread": {"events_per_s": spread(found["penstock"])},
        "times": times | ({"best_of_the_rest": min(rest)} if rest else {}),
        "peers": {
            name: {
                "what": PEERS[name].what,
                "file": f"bench/peers/{PEERS[name].file}",
                "events": events[name],
                "events_per_s": round(median(of_rounds)),
                "spread": spread(of_rounds),
            }
            for name, of_rounds in found.items()
            if name != "penstock"
        },
        "skipped": dict(skipped),
        **table.about(),
        "conflict_ratio": 0.0,
        **describe(place),
    }


def _create_table(place: Site) -> None:
    """The record's table without Penstock's columns."""
    columns = ", ".join(TranslationTask.model_fields)
    for statement in (
        "CREATE SCHEMA peers",
        f"CREATE TABLE peers.tasks AS SELECT {columns} FROM translation.tasks WITH NO DATA",
        "ALTER TABLE peers.tasks ADD PRIMARY KEY (task_id)",
        "CREATE INDEX ON peers.tasks (session_id)",
        "ALTER TABLE peers.tasks ADD FOREIGN KEY (session_id) REFERENCES translation.sessions (session_id)",
    ):
        place.connection.execute(statement)


def _penstock(place: Site, drain: Callable[[], float], expected: int) -> float:
    table = Table(place, "translation.tasks", TASK_MD5_SQL)
    table.empty()
    seconds = drain()
    if table.sent_digest() != expected:
        raise RoundVoid(f"Penstock: {table.rows()} rows are not what was sent")
    return seconds


class _Contender:
    """A peer with its environment, its settings and its rows."""

    def __init__(self, place: Site, name: str, environment: Environment, events: int) -> None:
        self.events = events
        self._place, self._name, self._peer, self._environment = place, name, PEERS[name], environment
        _, tasks = build_records(events)
        self._expected = checksum(tasks)
        self._table = Table(place, "peers.tasks", TASK_MD5_SQL)
        rows = place.folder / f"{name}.jsonl"
        rows.write_bytes(b"".join(task.to_json() + b"\n" for task in tasks))
        self._settings = place.folder / f"{name}.json"
        self._settings.write_text(
            json.dumps(
                {
                    "broker_url": place.broker_url,
                    "database_url": place.database_url,
                    "rows": str(rows),
                    "processes": self._peer.processes,
                    "environment": str(self._environment.folder),
                }
            )
        )

    def run(self) -> float:
        """Fill its queue, let it work, compare."""
        self._place.connection.execute("TRUNCATE peers.tasks")
        with self._place.phases.of("filling peers' queues"):
            self._fill()
        self._place.connection.execute("CHECKPOINT")
        seconds = self._work()
        if self._table.sent_digest() != self._expected:
            raise RoundVoid(f"{self._name}: {self._table.rows()} rows are not what was sent")
        return seconds

    def _fill(self) -> None:
        done = subprocess.run(
            self._command("fill"), env=self._variables, capture_output=True, text=True, timeout=_FILL_S, check=False
        )
        if done.returncode:
            raise RoundVoid(f"{self._name} cannot fill its queue: {done.stderr.strip()[-500:]}")

    def _work(self) -> float:
        with self._program() as process, redis.Redis.from_url(self._place.broker_url) as client:
            with self._place.phases.of("starting peers"):
                if self._peer.queue:
                    full = client.llen(self._peer.queue)
                    began = until(lambda: client.llen(self._peer.queue) != full, [process], "took nothing")
                else:
                    began = until(self._has_rows, [process], "took nothing")
            with self._place.phases.of(self._name):
                # As with Penstock, the database is not looked at before the queue is empty. A service ends by itself;
                # whether it stored all is seen by the checksum.
                if self._peer.queue:
                    until(lambda: client.llen(self._peer.queue) == 0, [process], "does not come to the end")
                    until(self._has_all_rows, [process], "does not come to the end")
                else:
                    until(lambda: self._has_all_rows() or not process.is_running, [], "does not come to the end", _LOOK_S)
            return time.perf_counter() - began

    def _has_rows(self) -> bool:
        return bool(self._place.value("SELECT EXISTS (SELECT FROM peers.tasks)"))

    def _has_all_rows(self) -> bool:
        return self._table.rows() >= self.events

    @contextmanager
    def _program(self) -> Iterator[ManagedProcess]:
        process = _Program(self._name, self._command("work"), self._place.folder, self._variables)
        process.launch()
        try:
            yield process
        finally:
            with self._place.phases.of("stopping peers"):
                process.stop(within_s=10)

    def _command(self, word: str) -> list[str]:
        return [self._environment.program, str(_FOLDER / self._peer.file), word]

    @property
    def _variables(self) -> dict[str, str]:
        return {**os.environ, "BENCH_PEER": str(self._settings)}


class _Program(ManagedProcess):
    def __init__(self, name: str, command: list[str], folder: Path, variables: dict[str, str]) -> None:
        super().__init__(name, log=folder / f"{name}.log", env=variables, cwd=folder)
        self._command_line = command

    def command(self) -> list[str]:
        return self._command_line
