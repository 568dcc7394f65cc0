"""
Ingestion beside a purge: what is left of its rate, and how long the purge keeps rows locked.

The table holds `--rows` tasks of last year, copied as in `growth`. Each round drains new tasks into it twice, once alone and
once beside a purge that deletes the old ones, paced as shipped; odd rounds begin alone, even ones beside. At the end the purge
runs, without pauses, until nothing is left, and the new rows must all be there. Then a month of an append-only type is dropped,
with `--month-rows` rows.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from bench.backlog import Backlog
from bench.figures import alternate, median, rates, spread
from bench.growth import drain_new, multiply
from bench.race import store
from bench.records import TASK_MD5_SQL
from bench.site import RoundVoid, Site, describe
from bench.table import Table
from bench.workload import build_workload
from penstock_worker.maintenance.job import run_job
from penstock_worker.maintenance.jobs import all_jobs
from penstock_worker.settings import Settings
from penstock_worker.store.connection import connect_with
from penstock_worker.store.partitions import list_partitions
from penstock_worker.store.retention.months import drop_month
from penstock_worker.store.retention.policy import registry_for

#: New events of one measurement.
EVENTS = 200_000
ROWS = 5_000_000
MONTH_ROWS = 10_000_000
#: Rows that a worker stores, and that are copied.
_SEED_ROWS = 20_000
_YEAR_US = 365 * 86_400 * 1_000_000
_POLICIES = "translation.task=30d,guardian.metric=1y"
#: A run of the purge beside a drain: it can be ended between two. Each begins with small steps.
_RUN_S = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=ROWS, help="old rows that are purged")
    parser.add_argument("--month-rows", type=int, default=MONTH_ROWS, help="rows of the month that is dropped")


def measure(place: Site, arguments: argparse.Namespace) -> dict[str, Any]:
    """
    Run all rounds.

    Raises:
        RoundVoid: The purge was over before a round was, or deleted a row that is not old.
    """
    purger = Purger(place)
    with closing(Backlog(place)) as backlog:
        old = _fill(place, backlog, arguments.rows)
        seeds = iter(range(1, 2 * arguments.rounds + 3))
        contenders = {
            "alone": lambda: drain_new(place, backlog, arguments.events, next(seeds)),
            "beside": lambda: _beside(purger, place, backlog, arguments.events, next(seeds)),
        }
        alternate(contenders, 1)
        seconds = alternate(contenders, arguments.rounds)
    beside = {"purged_rows_per_s": round(purger.deleted / purger.seconds)}
    alone = {"purged_rows_per_s_without_pauses": round(purger.finish())}
    left, deleted = Table(place, "translation.tasks", TASK_MD5_SQL).rows(), purger.deleted
    new = (2 * arguments.rounds + 2) * arguments.events
    if (left, deleted) != (new, old):
        raise RoundVoid(f"{left:,} rows are left of {new:,} new ones, {deleted:,} were deleted of {old:,} old ones")
    return _result(place, arguments, seconds, purger) | beside | alone | {"drop": _drop(place, arguments.month_rows)}


@dataclass
class Purger:
    """The job of retention, one run after the other, in a thread."""

    place: Site
    deleted: int = 0
    #: In which it ran.
    seconds: float = 0
    transactions: int = 0
    long_transactions: int = 0
    longest_ms: float = 0
    failures: list[Exception] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Purge until the block ends."""
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=[stop])
        before = self.deleted
        thread.start()
        try:
            while self.deleted == before and thread.is_alive():
                time.sleep(0.01)
            yield
        finally:
            stop.set()
            thread.join()
        if self.failures:
            raise self.failures[0]

    def finish(self) -> float:
        """Purge all that is left, without pauses; rows a second."""
        begin, before = time.perf_counter(), self.deleted
        while self._once({"retention_work_share": 1.0}):
            pass
        return (self.deleted - before) / (time.perf_counter() - begin)

    def _run(self, stop: threading.Event) -> None:
        try:
            while not stop.is_set():
                self._once({"retention_time_limit_s": _RUN_S})
        except Exception as exc:  # noqa: BLE001  # raised in the bench's own thread
            self.failures.append(exc)

    def _once(self, changed: dict[str, Any]) -> bool:
        """One run; whether there is more to do."""
        settings = Settings(database_url=self.place.database_url, retention=_POLICIES, **changed)
        job, registry = all_jobs(settings)["retention"], registry_for(settings)
        done = run_job(job, settings, registry, started_by="bench", arguments={"at_once": True})
        deleted = sum(done.counts.get("deleted", {}).values())
        self.deleted += deleted
        self.seconds += done.seconds
        self.transactions += done.counts.get("transactions", 0)
        self.long_transactions += done.counts.get("over_100_ms", 0)
        self.longest_ms = max(self.longest_ms, done.counts.get("longest_lock_ms", 0))
        return bool(deleted or done.counts.get("next"))


def _fill(place: Site, backlog: Backlog, rows: int) -> int:
    """Tasks of last year; how many."""
    seed_rows = min(_SEED_ROWS, rows)
    with place.phases.of("making events"):
        seed = build_workload(seed_rows)
    store(place, backlog, [*seed.sessions, *seed.tasks])
    place.connection.execute(f"UPDATE translation.tasks SET _version = _version - {_YEAR_US}, _oldest = _oldest - {_YEAR_US}")
    multiply(place, -(-rows // seed_rows) - 1)
    return Table(place, "translation.tasks", TASK_MD5_SQL).rows()


def _beside(purger: Purger, place: Site, backlog: Backlog, events: int, seed: int) -> float:
    with purger.running():
        seconds = drain_new(place, backlog, events, seed)
        before = purger.deleted
    if purger.deleted == before:
        raise RoundVoid("the purge had nothing to do any more: give it more --rows, or the drain fewer --events")
    return seconds


def _drop(place: Site, rows: int) -> dict[str, Any]:
    """Fill the oldest month of `guardian.metric`, and drop it."""
    settings = Settings(database_url=place.database_url)
    registry = registry_for(settings)
    record = registry["guardian.metric"]
    with connect_with(settings)() as connection:
        month = list_partitions(connection, record)[0]
        with place.phases.of("filling a month"):
            place.connection.execute(
                "INSERT INTO guardian.metrics (id, timestamp, agent_performance, cache_stats, _version, _event)"
                " SELECT gen_random_uuid(), %s + n * interval '1 us', jsonb_build_object('planner_ms', n %% 900),"
                " jsonb_build_object('hits', n), n, gen_random_uuid() FROM generate_series(1, %s) AS n",
                [month.begin, rows],
            )
        size = int(place.value("SELECT pg_total_relation_size(%s::regclass)", [f"guardian.{month.name}"]))
        begin = time.perf_counter()
        is_gone = drop_month(connection, registry, record, month, time.sleep)
        seconds = time.perf_counter() - begin
    if not is_gone:
        raise RoundVoid(f"{month.name} was not dropped")
    return {"rows": rows, "mb": round(size / 1e6), "seconds": round(seconds, 3)}


def _result(place: Site, arguments: argparse.Namespace, seconds: dict[str, list[float]], purger: Purger) -> dict[str, Any]:
    alone, beside = rates(arguments.events, seconds["alone"]), rates(arguments.events, seconds["beside"])
    ratios = [with_purge / without for without, with_purge in zip(alone, beside, strict=True)]
    return {
        "name": "retention",
        "broker": place.broker,
        "events": arguments.events,
        "rounds": len(ratios),
        "events_per_s": round(median(beside)),
        "events_per_s_alone": round(median(alone)),
        "ratio": round(median(ratios), 3),
        "spread": {
            "events_per_s": spread(beside),
            "events_per_s_alone": spread(alone),
            "ratio": spread(ratios, 3),
        },
        "purged_rows": purger.deleted,
        "transactions": purger.transactions,
        "transactions_over_100_ms": purger.long_transactions,
        "longest_lock_ms": purger.longest_ms,
        **Table(place, "translation.tasks", TASK_MD5_SQL).about(),
        **describe(place),
    }
