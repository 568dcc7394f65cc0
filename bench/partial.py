"""Partial records for rows that are all there: three fields each, beside COPY of the rows that come of it."""

from __future__ import annotations

import argparse
from contextlib import closing
from typing import Any

from bench.backlog import Backlog
from bench.race import task_race
from bench.site import Site
from bench.workload import build_corrections

EVENTS = 100_000


def measure(place: Site, arguments: argparse.Namespace) -> dict[str, Any]:
    """See `race`."""
    with place.phases.of("making events"):
        load = build_corrections(arguments.events)
    with closing(Backlog(place)) as backlog:
        race = task_race(place, backlog, load)
        seconds = race.run(arguments.rounds)
    return race.result("partial", seconds, message_bytes_per_event=round(load.bytes_per_event))
