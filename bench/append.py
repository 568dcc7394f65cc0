"""Append-only records, `guardian.metric`, into a partitioned table: one worker, two children, beside COPY."""

from __future__ import annotations

import argparse
from contextlib import closing
from typing import Any

from bench.backlog import Backlog
from bench.race import Race, Task, drained_tasks
from bench.records import METRIC_MD5_SQL
from bench.site import Site
from bench.table import Table
from bench.workload import build_metrics

EVENTS = 600_000


def measure(place: Site, arguments: argparse.Namespace) -> dict[str, Any]:
    """See `race`."""
    with place.phases.of("making events"):
        messages, checksum = build_metrics(arguments.events)
    table = Table(place, "guardian.metrics", METRIC_MD5_SQL)
    with closing(Backlog(place)) as backlog:
        race = Race(Task(table, arguments.events, checksum, drained_tasks(place, backlog, messages, arguments.events)))
        seconds = race.run(arguments.rounds)
    return race.result("append", seconds)
