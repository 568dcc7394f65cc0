"""
From `publish()` to visible: a service publishes 1,000 events a second, another connection sees each row.

The observer asks, again and again, which of the keys that it misses are there; how long one such look takes is told, for it is
the grain of the figures, and part of them. The first second of each round is not counted: connections open in it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import psycopg

from bench.backlog import Backlog
from bench.figures import median, percentile, spread
from bench.records import TASK_MD5_SQL, build_records, checksum
from bench.service import service
from bench.site import RoundVoid, Site, describe
from bench.table import Table
from bench.workers import workers

EVENTS = 6_000
PER_S = 1_000
#: Keys that one look asks for, the oldest of the missing ones: more than are under way where the goal is reached.
_WINDOW = 400
#: Between two looks: they take CPU time from what is measured.
_PAUSE_S = 0.005
_STALL_S = 120.0


def measure(place: Site, arguments: argparse.Namespace) -> dict[str, Any]:
    """The median of the rounds' percentiles, in milliseconds."""
    with place.phases.of("making events"):
        _, tasks = build_records(arguments.events)
        keys, digest = [task.task_id for task in tasks], checksum(tasks)
    table = Table(place, "translation.tasks", TASK_MD5_SQL)
    Backlog(place).close()
    rounds = []
    pace: list[float] = []
    with service(place, "paced", arguments.events, per_s=PER_S) as publisher:
        for _ in range(arguments.rounds):
            table.empty()
            with workers(place, 1):
                publisher.tell("spill")
                seen, looks = _watch(place, keys)
                published = publisher.hear()["published"]
                dropped = publisher.ask("finish")
            if dropped or table.sent_digest() != digest:
                raise RoundVoid(f"{table.rows()} rows of {arguments.events}, dropped {dropped}")
            warm = min(PER_S, arguments.events // 2)
            pace.append((len(published) - 1) / (published[-1] - published[0]))
            delays = [(seen[key] - at) * 1000 for key, at in zip(keys[warm:], published[warm:], strict=True)]
            rounds.append({"p50_ms": percentile(delays, 50), "p99_ms": percentile(delays, 99), "look_ms": median(looks) * 1000})
    values = {name: [one[name] for one in rounds] for name in rounds[0]}
    return {
        "name": "latency",
        "broker": place.broker,
        "events": arguments.events,
        "rounds": len(rounds),
        "events_per_s": round(median(pace)),
        **{name: round(median(of_rounds), 1) for name, of_rounds in values.items()},
        "spread": {name: spread(of_rounds, 1) for name, of_rounds in values.items()},
        **table.about(),
        "conflict_ratio": 0.0,
        **describe(place),
    }


def _watch(place: Site, keys: Sequence[str]) -> tuple[dict[str, float], list[float]]:
    """When each key was first seen, and how long the looks took."""
    seen: dict[str, float] = {}
    looks = []
    missing = list(keys)
    deadline = time.perf_counter() + len(keys) / PER_S + _STALL_S
    query = "SELECT task_id FROM translation.tasks WHERE task_id = ANY(%s)"
    with psycopg.connect(place.database_url, autocommit=True) as connection:
        # A look must be cheap. What is known of a table that was empty a moment ago speaks for reading all of it.
        connection.execute("SET enable_seqscan = off")
        while missing:
            began = time.perf_counter()
            found = {row[0] for row in connection.execute(query, [missing[:_WINDOW]], prepare=True)}
            ended = time.perf_counter()
            looks.append(ended - began)
            if found:
                seen |= dict.fromkeys(found, ended)
                missing = [key for key in missing if key not in found]
            if ended > deadline:
                raise RoundVoid(f"{len(missing)} events are not visible after {_STALL_S:.0f} s")
            time.sleep(_PAUSE_S)
    return seen, looks
