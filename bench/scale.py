"""
One, two and four workers on the same cores as the database; and a model of 10, 100 and 1,000.

The workers are up and idle when the whole backlog appears in the queue at once, so that no start is in the figures. The CPU
time that each part takes meanwhile is what the model is fitted to: see `model`, also for what it leaves out.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from bench.backlog import Backlog
from bench.figures import alternate, median, rates, spread
from bench.model import PARTS, Model, Sample, fit
from bench.processes import CpuClock
from bench.race import store
from bench.records import TASK_MD5_SQL
from bench.site import RoundVoid, Site, describe
from bench.table import Table
from bench.workers import end_idle, ended_events, until, workers
from bench.workload import Workload, build_workload
from penstock_worker.settings import Settings

EVENTS = 120_000
WORKERS = (1, 2, 4)
PREDICTED = (1, 10, 100, 1_000)
#: Cores of a database server of its own, in the predictions.
DATABASE_CORES = (2, 16, 64)


def measure(place: Site, arguments: argparse.Namespace) -> dict[str, Any]:
    """Rates with several workers, on Redis: RabbitMQ cannot show a backlog to all of them at once."""
    if place.broker != "redis":
        raise SystemExit("scale is measured on Redis only: the backlog has to appear at once")
    with place.phases.of("making events"):
        load = build_workload(arguments.events)
    table = Table(place, "translation.tasks", TASK_MD5_SQL)
    costs: dict[int, list[dict[str, float]]] = {count: [] for count in WORKERS}
    wal: list[float] = []
    with closing(Backlog(place)) as backlog:
        store(place, backlog, load.sessions)

        def turn(count: int) -> Callable[[], float]:
            def run() -> float:
                table.empty()
                backlog.park(load.tasks)
                place.connection.execute("CHECKPOINT")
                written = _wal(place)
                seconds, cpu = _drain(place, backlog, load, count)
                wal.append((_wal(place) - written) / load.events)
                if table.sent_digest() != load.checksum:
                    raise RoundVoid(f"with {count} workers {table.name} is not what was sent: {table.rows()} rows")
                costs[count].append({part: spent / load.events * 1e6 for part, spent in cpu.items()})
                return seconds

            return run

        seconds = alternate({str(count): turn(count) for count in WORKERS}, arguments.rounds)
    measured = {count: rates(load.events, seconds[str(count)]) for count in WORKERS}
    samples = [
        Sample(count, median(measured[count]), {part: median([one[part] for one in costs[count]]) for part in PARTS})
        for count in WORKERS
    ]
    cores = os.cpu_count() or 1
    model = fit(samples, cores, Settings().concurrency)
    return {
        "name": "scale",
        "broker": place.broker,
        "events": load.events,
        "rounds": arguments.rounds,
        "events_per_s": round(samples[0].events_per_s),
        "ratio": round(samples[-1].events_per_s / samples[0].events_per_s, 3),
        "spread": {"events_per_s": spread(measured[WORKERS[0]])},
        "workers": [_told(sample, model, cores, measured[sample.workers]) for sample in samples],
        "model": model.as_dict(),
        "wal_bytes_per_event": round(median(wal)),
        "predicted": [_predicted(model, count, cores, median(wal)) for count in PREDICTED],
        **table.about(),
        "conflict_ratio": 0.0,
        **describe(place),
    }


def _drain(place: Site, backlog: Backlog, load: Workload, count: int) -> tuple[float, dict[str, float]]:
    with workers(place, count) as started:
        before = CpuClock.read(place, started)
        began = time.perf_counter()
        backlog.release()
        with place.phases.of("draining"):
            until(lambda: backlog.depth() == 0, started, "does not come to the end")
            until(lambda: ended_events(place) >= load.events, started, "does not come to the end")
        seconds = time.perf_counter() - began
        cpu = CpuClock.read(place, started).since(before)
        for process in started:
            end_idle(place, backlog, process)
        return seconds, cpu


def _wal(place: Site) -> int:
    return int(place.value("SELECT pg_current_wal_insert_lsn() - '0/0'"))


def _told(sample: Sample, model: Model, cores: int, measured: list[float]) -> dict[str, Any]:
    return {
        "workers": sample.workers,
        "events_per_s": round(sample.events_per_s),
        "spread": spread(measured),
        "cpu_us_per_event": {part: round(cost, 2) for part, cost in sample.cpu_us.items()},
        "model_events_per_s": round(model.together(sample.workers, cores)),
        "model_error": round(model.error(sample, cores), 3),
    }


def _predicted(model: Model, count: int, cores: int, wal_bytes: float) -> dict[str, Any]:
    apart = {}
    for database_cores in DATABASE_CORES:
        rate, part = model.apart(count, database_cores)
        apart[str(database_cores)] = {
            "events_per_s": round(rate),
            "used_up": part,
            "wal_mb_per_s": round(rate * wal_bytes / 1e6),
        }
    return {"workers": count, "together_events_per_s": round(model.together(count, cores)), "apart_by_database_cores": apart}
