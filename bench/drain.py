"""Draining a backlog of new `translation.task` rows, 500 a message: one worker, two children, beside COPY."""

from __future__ import annotations

import argparse
from contextlib import closing
from typing import Any

from bench.backlog import Backlog
from bench.race import task_race
from bench.site import Site
from bench.workload import build_workload

EVENTS = 300_000


def measure(place: Site, arguments: argparse.Namespace) -> dict[str, Any]:
    """See `race`."""
    with place.phases.of("making events"):
        load = build_workload(arguments.events)
    with closing(Backlog(place)) as backlog:
        race = task_race(place, backlog, load)
        seconds = race.run(arguments.rounds)
    return race.result("drain", seconds, message_bytes_per_event=round(load.bytes_per_event))
