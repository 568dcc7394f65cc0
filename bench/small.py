"""
One event a message, as foreign producers send it: CloudEvents in JSON; and the same in Penstock's own envelopes.

A backlog of new `translation.task` rows, one worker, two children, beside COPY. The ledger does not know CloudEvents, so the
clock stops at the first look at the table that finds all rows; and for envelopes, drained in turn, too.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from typing import Any

from bench.backlog import Backlog
from bench.figures import median, rates, spread
from bench.race import Race, Task, store
from bench.records import TASK_MD5_SQL
from bench.site import Site
from bench.table import Table
from bench.workers import timed_drain
from bench.workload import Message, build_small, build_workload

EVENTS = 30_000


def measure(place: Site, arguments: argparse.Namespace) -> dict[str, Any]:
    """See `race`; once for each kind of message."""
    load = build_workload(arguments.events)
    table = Table(place, "translation.tasks", TASK_MD5_SQL)
    with closing(Backlog(place)) as backlog:
        store(place, backlog, load.sessions)

        def race(messages: list[Message], *copies: int) -> tuple[Race, dict[str, list[float]]]:
            def run() -> float:
                backlog.put(messages)
                place.connection.execute("CHECKPOINT")
                return timed_drain(place, backlog, load.events, lambda _: table.rows())

            raced = Race(Task(table, load.events, load.checksum, run), copies)
            return raced, raced.run(arguments.rounds)

        messages = build_small(arguments.events)
        foreign, seconds = race(messages.cloudevents, 1)
        _, of_envelopes = race(messages.envelopes)
    result = foreign.result("small", seconds, message_bytes_per_event=len(messages.cloudevents[0].body))
    envelopes = rates(load.events, of_envelopes["task"])
    result["envelope_events_per_s"] = round(median(envelopes))
    result["spread"]["envelope_events_per_s"] = spread(envelopes)
    return result
