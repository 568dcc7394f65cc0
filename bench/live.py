"""
Publishing from one process while a worker stores: from the first `publish()` to the last commit, beside COPY.

The worker is up and idle, the service calls `publish()` for one record after the other as fast as it is accepted, with the
producer's defaults. Versions are stamped by the producer, so that between rounds only what was sent is compared.
"""

from __future__ import annotations

import argparse
import time
from contextlib import closing
from typing import Any

from bench.backlog import Backlog
from bench.race import Race, Task, store
from bench.records import TASK_MD5_SQL
from bench.service import Service, service
from bench.site import RoundVoid, Site
from bench.table import Table
from bench.workers import ended_events, until, workers
from bench.workload import build_workload

EVENTS = 150_000


def measure(place: Site, arguments: argparse.Namespace) -> dict[str, Any]:
    """See `race`."""
    publishing: list[float] = []
    with closing(Backlog(place)) as backlog, service(place, "at_once", arguments.events) as publisher:
        with place.phases.of("making events"):
            load = build_workload(arguments.events)
        store(place, backlog, load.sessions)
        table = Table(place, "translation.tasks", TASK_MD5_SQL)

        def run() -> float:
            place.connection.execute("CHECKPOINT")
            seconds, published_in = _publish_and_store(place, publisher, arguments.events)
            publishing.append(published_in)
            return seconds

        race = Race(Task(table, load.events, load.checksum, run, has_fixed_versions=False))
        seconds = race.run(arguments.rounds)
    return race.result("live", seconds, publishing_s=[round(duration, 2) for duration in publishing[1:]])


def _publish_and_store(place: Site, publisher: Service, events: int) -> tuple[float, float]:
    """Seconds to the last commit, and to the last `publish()`."""
    with workers(place, 1) as started:
        publisher.tell("spill")
        answer = publisher.hear()
        until(lambda: ended_events(place) >= events, started, "does not come to the end")
        stored = time.perf_counter()
        dropped = publisher.ask("finish")
    if dropped:
        raise RoundVoid(f"the producer dropped {dropped}")
    return stored - answer["began"], answer["publishing_s"]
