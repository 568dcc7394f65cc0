"""
The yardstick: raw COPY of the same rows into the same table, over one connection and over two.

The rows are those that a worker left, bookkeeping included, encoded before the clock starts; the table keeps its key, its
foreign key and its indexes. What the worker itself takes is measured beside it, as `drain` does.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from typing import Any

from bench.backlog import Backlog
from bench.figures import median, rates, spread
from bench.race import task_race
from bench.site import Site
from bench.workload import build_workload

EVENTS = 300_000


def measure(place: Site, arguments: argparse.Namespace) -> dict[str, Any]:
    """See `race`; here COPY over one connection is what the figure is."""
    with closing(Backlog(place)) as backlog:
        race = task_race(place, backlog, build_workload(arguments.events), connections=(1, 2))
        seconds = race.run(arguments.rounds)
    result = race.result("limit", seconds)
    one, two, drain = (rates(arguments.events, seconds[name]) for name in ("copy_1", "copy_2", "task"))
    result |= {
        "events_per_s": round(median(one)),
        "rows_per_s_2_connections": round(median(two)),
        "drain_events_per_s": round(median(drain)),
        "ratio": 1.0,
        "ratio_2_connections": round(median(two) / median(one), 3),
        "spread": {
            "events_per_s": spread(one),
            "rows_per_s_2_connections": spread(two),
            "drain_events_per_s": spread(drain),
        },
    }
    del result["copy_rows_per_s"]
    return result
