"""
What the database has to bear: transactions and WAL bytes per 1,000 events, beside one INSERT an event.

Both begin after a CHECKPOINT, with an empty table. PostgreSQL counts, and is read from another database, so that the reading is
not in the figures; the worker's own end is waited for, because backends tell their counts at the latest then. The single
INSERTs are those of a service: the record's columns, prepared, each its own transaction.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from bench.backlog import Backlog
from bench.figures import alternate, median, spread
from bench.race import store
from bench.records import TASK_MD5_SQL, build_records, checksum
from bench.site import RoundVoid, Site, describe
from bench.table import Table
from bench.workers import until, worker
from bench.workload import Workload, build_workload
from penstock_schemas.records.translation import TranslationTask

EVENTS = 200_000
#: Single INSERTs in a round: so slow that fewer must do.
SINGLE_EVENTS = 5_000
_SETTLE_S = 30.0
#: Sessions tell their counts when they end, which is a moment after their client has gone.
_SETTLE_STEP_S = 0.5


def measure(place: Site, arguments: argparse.Namespace) -> dict[str, Any]:
    """The medians of both."""
    with place.phases.of("making events"):
        load = build_workload(arguments.events)
        _, tasks = build_records(min(SINGLE_EVENTS, arguments.events))
    table = Table(place, "translation.tasks", TASK_MD5_SQL)
    found: dict[str, list[dict[str, float]]] = {"batches": [], "single": []}
    about: dict[str, Any] = {}
    with closing(Backlog(place)) as backlog:
        store(place, backlog, load.sessions)
        contenders = {"batches": lambda: _drain(place, backlog, load), "single": lambda: _insert(place, tasks)}
        expected = {"batches": load.checksum, "single": checksum(tasks)}
        counts = {"batches": load.events, "single": len(tasks)}

        def run(name: str) -> Callable[[], float]:
            def turn() -> float:
                table.empty()
                place.connection.execute("CHECKPOINT")
                counted = _counted(place, contenders[name], counts[name])
                if table.sent_digest() != expected[name]:
                    raise RoundVoid(f"after {name} {table.name} is not what was sent: {table.rows()} rows of {counts[name]}")
                found[name].append(counted)
                if name == "batches":
                    about.update(table.about())
                return counted["events_per_s"]

            return turn

        alternate({name: run(name) for name in contenders}, arguments.rounds)
    batches, single = (_summary(found[name]) for name in ("batches", "single"))
    return {
        "name": "pressure",
        "broker": place.broker,
        "events": load.events,
        "single_events": len(tasks),
        "rounds": arguments.rounds,
        "events_per_s": batches["events_per_s"],
        "transactions_per_1000_events": batches["transactions"],
        "wal_bytes_per_1000_events": batches["wal_bytes"],
        "spread": batches["spread"],
        "one_insert_an_event": single,
        "ratio": round(batches["wal_bytes"] / single["wal_bytes"], 3),
        **about,
        "conflict_ratio": 0.0,
        **describe(place),
    }


def _counted(place: Site, work: Callable[[], float], events: int) -> dict[str, float]:
    with psycopg.connect(place.postgres.url_of("postgres"), autocommit=True) as reader:
        transactions, wal = _settled(place, reader), _wal(reader)
        seconds = work()
        wal = _wal(reader) - wal
        transactions = _settled(place, reader) - transactions
    return {
        "transactions": transactions / events * 1000,
        "wal_bytes": wal / events * 1000,
        "events_per_s": events / seconds,
    }


def _settled(place: Site, reader: psycopg.Connection[tuple[Any, ...]]) -> int:
    """Transactions committed in the site's database, once all its sessions have told theirs."""
    query = "SELECT xact_commit FROM pg_stat_database WHERE datname = %s"
    # The site's own connection tells what it has done so far, this statement included, before anything is counted.
    place.connection.execute("SELECT pg_stat_force_next_flush()")
    place.connection.execute("SELECT 1")
    before, deadline = -1, time.monotonic() + _SETTLE_S
    while time.monotonic() < deadline:
        row = reader.execute(query, [place.database]).fetchone()
        now = int(row[0]) if row else 0
        if now == before:
            return now
        before = now
        time.sleep(_SETTLE_STEP_S)
    raise RoundVoid("the count of transactions does not come to rest")


def _wal(reader: psycopg.Connection[tuple[Any, ...]]) -> int:
    row = reader.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone()
    return int(row[0]) if row else 0


def _drain(place: Site, backlog: Backlog, load: Workload) -> float:
    backlog.put(load.tasks)
    full = backlog.depth()
    with worker(place) as process:
        with place.phases.of("starting workers"):
            began = until(lambda: backlog.depth() != full, [process], "took nothing")
        with place.phases.of("draining"):  # the database is not asked: that would be counted too
            until(lambda: backlog.depth() == 0 and not backlog.under_way(), [process], "does not come to the end")
        return time.perf_counter() - began


def _insert(place: Site, tasks: list[TranslationTask]) -> float:
    names = list(TranslationTask.model_fields)
    statement = f"INSERT INTO translation.tasks ({', '.join(names)}) VALUES ({', '.join(['%s'] * len(names))})"
    rows = [[Jsonb(value) if isinstance(value := getattr(task, name), dict) else value for name in names] for task in tasks]
    with place.phases.of("single INSERTs"), psycopg.connect(place.database_url, autocommit=True) as connection:
        began = time.perf_counter()
        for row in rows:
            connection.execute(statement, row, prepare=True)
        return time.perf_counter() - began


def _summary(rounds: list[dict[str, float]]) -> dict[str, Any]:
    values = {name: [one[name] for one in rounds] for name in rounds[0]}
    return {
        **{name: round(median(of_rounds), 3) for name, of_rounds in values.items()},
        "spread": {name: spread(of_rounds, 3) for name, of_rounds in values.items()},
    }
