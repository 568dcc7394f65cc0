"""
The yardstick: raw COPY of the same rows into the same table, over one connection and over two.

The rows are those that a worker left, bookkeeping included, encoded before the clock starts; the table keeps its key, its
foreign key and its indexes. The other benches measure COPY over one connection once more beside what they compare with it.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from typing import Any

from bench.backlog import Backlog
from bench.figures import alternate, median, rates, spread
from bench.race import task_race
from bench.site import Site, describe
from bench.workload import build_workload

EVENTS = 300_000


def measure(place: Site, arguments: argparse.Namespace) -> dict[str, Any]:
    """See `race`; the figure is that of one connection."""
    with place.phases.of("making events"):
        load = build_workload(arguments.events)
    with closing(Backlog(place)) as backlog:
        race = task_race(place, backlog, load, connections=(1, 2))
        seconds = alternate(race.copies(), arguments.rounds)
    one, two = (rates(arguments.events, seconds[name]) for name in ("copy_1", "copy_2"))
    return {
        "name": "limit",
        "broker": place.broker,
        "events": arguments.events,
        "rounds": arguments.rounds,
        "events_per_s": round(median(one)),
        "rows_per_s_2_connections": round(median(two)),
        "ratio": 1.0,
        "ratio_2_connections": round(median(two) / median(one), 3),
        "spread": {"events_per_s": spread(one), "rows_per_s_2_connections": spread(two)},
        **race.about(),
        **describe(place),
    }
