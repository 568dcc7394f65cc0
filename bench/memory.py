"""
The worker's resident memory under a short backlog and under a long one.

The backlog is the same tasks many times over, each time with other keys, so that it need not fit into the bench. Every backlog
is drained to its end, and the most that the worker's processes had resident at one moment counts. The long one is measured
once, the short one once before and once after it: for time, not for tables, are five million events too many three times over.
"""

from __future__ import annotations

import argparse
import time
from contextlib import closing
from typing import Any

from bench.backlog import Backlog
from bench.figures import spread
from bench.processes import watched_memory
from bench.records import CONTENT_MD5_SQL, build_records, content_checksum
from bench.site import RoundVoid, Site, describe
from bench.table import Table
from bench.workers import ended_events, until, worker
from bench.workload import Workload, build_workload, copies

#: Of the long backlog.
EVENTS = 5_000_000
SHORT_EVENTS = 200_000
#: Tasks that are made; the rest are copies of them.
_MADE_EVENTS = 50_000
_MB = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--short", type=int, default=SHORT_EVENTS, help="events of the short backlog")


def measure(place: Site, arguments: argparse.Namespace) -> dict[str, Any]:
    """The long backlog's memory, and how many times the short one's that is."""
    made = min(_MADE_EVENTS, arguments.short, arguments.events)
    with place.phases.of("making events"):
        load, content = build_workload(made), content_checksum(build_records(made)[1])
    table = Table(place, "translation.tasks", CONTENT_MD5_SQL)
    with closing(Backlog(place)) as backlog:
        sizes = [arguments.short, arguments.events, arguments.short]
        rounds = [_drain(place, backlog, load, table, size // made, content) for size in sizes]
    first, long, last = rounds
    short_mb = round((first["resident_mb"] + last["resident_mb"]) / 2, 1)
    return {
        "name": "memory",
        "broker": place.broker,
        "events": long["events"],
        "short_events": first["events"],
        "rounds": 1,
        "events_per_s": long["events_per_s"],
        "resident_mb": long["resident_mb"],
        "proportional_mb": long["proportional_mb"],
        "short_resident_mb": short_mb,
        "ratio": round(long["resident_mb"] / short_mb, 3),
        "spread": {"short_resident_mb": spread([first["resident_mb"], last["resident_mb"]], 1)},
        "backlogs": rounds,
        **table.about(),
        "conflict_ratio": 0.0,
        **describe(place),
    }


def _drain(place: Site, backlog: Backlog, load: Workload, table: Table, times: int, content: int) -> dict[str, Any]:
    place.connection.execute("TRUNCATE translation.sessions CASCADE")
    table.empty()
    backlog.put(copies(load.tasks, times))
    place.connection.execute("CHECKPOINT")
    events, full = load.events * times, backlog.depth()
    with worker(place) as process, watched_memory(process) as watch:
        with place.phases.of("starting workers"):
            began = until(lambda: backlog.depth() != full, [process], "took nothing")
        with place.phases.of("draining"):
            until(lambda: backlog.depth() == 0, [process], "does not come to the end", poll_s=0.05)
            until(lambda: ended_events(place) >= events, [process], "does not come to the end")
        seconds = time.perf_counter() - began
    if table.sent_digest() != content * times:
        raise RoundVoid(f"{table.name} is not what was sent: {table.rows()} rows of {events}")
    return {
        "events": events,
        "rows": table.rows(),
        "events_per_s": round(events / seconds),
        "resident_mb": round(watch.resident / _MB, 1),
        "proportional_mb": round(watch.proportional / _MB, 1),
    }
