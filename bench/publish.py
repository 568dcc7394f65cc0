"""
What `publish()` costs its caller: four threads of a service, with the broker there and away.

A service has requests: its threads take turns in publishing bursts of 25 records, 4,000 events a second in all, each record
made just before. A call's time holds what it waits for the sender, and for another thread where two bursts meet. Each round
publishes the same records through a new producer with its defaults ("spill"), and with a journal, both while a worker stores
what comes and with the broker stopped.

Beside these stands "spill_saturated": the same four threads without a pause. There most of a call's time is waiting for
Python's interpreter, which the other three have: it tells how many events a second one process publishes at most, and not what
one costs.

After each measurement all rows are compared with what was sent: where the broker was away, once it is back.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from typing import Any

from bench.backlog import Backlog
from bench.figures import median, percentile, rotated, spread
from bench.records import TASK_MD5_SQL
from bench.service import Service, service
from bench.site import RoundVoid, Site, describe
from bench.table import Table
from bench.workers import ended_events, until, workers
from bench.workload import build_workload

EVENTS = 6_000
THREADS = 4
BURST_EVENTS = 25
PER_S = 4_000
#: By the name of the result: how it publishes (see `service.PUBLISHERS`), the durability, and whether the broker is there.
MODES = {
    "spill": ("in_bursts", "spill", True),
    "journal": ("in_bursts", "journal", True),
    "spill_away": ("in_bursts", "spill", False),
    "journal_away": ("in_bursts", "journal", False),
    "spill_saturated": ("without_pause", "spill", True),
}


def measure(place: Site, arguments: argparse.Namespace) -> dict[str, Any]:
    """The median of the rounds' medians and 99th percentiles, in microseconds."""
    table = Table(place, "translation.tasks", TASK_MD5_SQL)
    # The queue has to be there before the broker goes.
    Backlog(place).close()
    found: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
    with ExitStack() as stack:
        publishers = {
            how: stack.enter_context(service(place, how, arguments.events, threads=THREADS, burst=BURST_EVENTS, per_s=PER_S))
            for how in ("in_bursts", "without_pause")
        }
        load = build_workload(arguments.events)
        for number in range(arguments.rounds):
            for mode in rotated(list(MODES), number):
                table.empty()
                how, durability, is_there = MODES[mode]
                durations = _round(place, publishers[how], arguments.events, durability, is_there=is_there)
                if table.sent_digest() != load.checksum:
                    raise RoundVoid(f"after {mode} {table.name} is not what was sent: {table.rows()} rows of {load.events}")
                found[mode].append(durations)
    modes = {mode: _summary(rounds) for mode, rounds in found.items()}
    return {
        "name": "publish",
        "broker": place.broker,
        "events": arguments.events,
        "rounds": arguments.rounds,
        "threads": THREADS,
        "burst_events": BURST_EVENTS,
        "per_s": PER_S,
        "events_per_s": modes["spill"]["events_per_s"],
        "p50_us": modes["spill"]["p50_us"],
        "p99_us": modes["spill"]["p99_us"],
        "spread": modes["spill"]["spread"],
        "modes": modes,
        **table.about(),
        "conflict_ratio": 0.0,
        "message_bytes_per_event": round(load.bytes_per_event),
        **describe(place),
    }


def _round(place: Site, publisher: Service, events: int, durability: str, *, is_there: bool) -> dict[str, float]:
    with ExitStack() as stack:
        if is_there:
            started = stack.enter_context(workers(place, 1))
            answer = publisher.ask(durability)
        else:
            place.broker_server.stop()
            answer = publisher.ask(durability)
            place.broker_server.start()
            started = stack.enter_context(workers(place, 1))
        publisher.tell("the broker is there")
        until(lambda: ended_events(place) >= events, started, "does not come to the end")
        dropped = publisher.hear()
    if dropped or answer["accepted"] != events:
        raise RoundVoid(f"accepted {answer['accepted']} of {events}, dropped {dropped}")
    durations = [duration / 1000 for duration in answer["ns"]]
    return {
        "p50_us": percentile(durations, 50),
        "p99_us": percentile(durations, 99),
        "max_us": max(durations),
        "events_per_s": events / answer["seconds"],
    }


def _summary(rounds: list[dict[str, float]]) -> dict[str, Any]:
    values = {name: [one[name] for one in rounds] for name in rounds[0]}
    return {
        **{name: round(median(of_rounds), 1) for name, of_rounds in values.items()},
        "spread": {name: spread(of_rounds, 1) for name, of_rounds in values.items()},
    }
