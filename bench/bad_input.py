"""
A good producer beside a bad one: what is left of its rate.

Each round drains the same good messages twice, mixed evenly with those of a neighbour (`--percent` messages for a hundred good
ones): once the neighbour's are good as well, once every event in them is bad. Both times the queue holds as many messages, and
the rate is that of the good producer's events. Odd rounds begin with the good neighbour, even ones with the bad. The bad
messages are of five kinds in turn: no column takes the value, a NUL, a number above every limit, a key too long for its index,
and a body that was cut. After each drain the good producer's rows are counted, and the neighbour's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from bench.backlog import Backlog
from bench.figures import alternate, median, rates, spread
from bench.race import store
from bench.records import TASK_MD5_SQL
from bench.site import RoundVoid, Site, describe
from bench.table import Table
from bench.workers import timed_drain
from bench.workload import EVENTS_PER_MESSAGE, Message, Workload, build_workload
from penstock_worker.store.copy_text import MAX_INDEXED_BYTES

_DAMAGES = (
    (b'"tokens":', b'"tokens":"many","was":'),
    (b'"model":"', b'"model":"\\u0000'),
    (b'"page":', b'"page":1e400,"was":'),
    (b'"task_id":"', b'"task_id":"%b' % (b"k" * MAX_INDEXED_BYTES)),
)


#: The good producer's.
EVENTS = 100_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--percent", type=int, default=10, help="the neighbour's messages for a hundred good ones")


def measure(place: Site, arguments: argparse.Namespace) -> dict[str, Any]:
    """
    Run all rounds.

    Raises:
        RoundVoid: Not all good rows were stored, or a bad one was.
    """
    beside = max(1, arguments.events * arguments.percent // 100 // EVENTS_PER_MESSAGE) * EVENTS_PER_MESSAGE
    load = build_workload(arguments.events + beside)
    with closing(Backlog(place)) as backlog:
        return _Measurement(place, backlog, load, arguments.events, beside).run(arguments.rounds)


@dataclass
class _Measurement:
    place: Site
    backlog: Backlog
    load: Workload
    #: Events of the good producer, and of its neighbour.
    events: int
    beside: int

    def run(self, rounds: int) -> dict[str, Any]:
        count = self.beside // EVENTS_PER_MESSAGE
        ours, neighbours = self.load.tasks[:-count], self.load.tasks[-count:]
        good, bad = mix(ours, neighbours), mix(ours, [damage(m, n) for n, m in enumerate(neighbours)])
        store(self.place, self.backlog, self.load.sessions)
        self._drain(good, is_good=True)
        contenders = {
            "good": lambda: self._drain(good, is_good=True),
            "bad": lambda: self._drain(bad, is_good=False),
        }
        return self._result(alternate(contenders, rounds))

    def _drain(self, messages: Sequence[Message], *, is_good: bool) -> float:
        table = Table(self.place, "translation.tasks", TASK_MD5_SQL)
        table.empty()
        self.backlog.put(messages)
        self.place.connection.execute("CHECKPOINT")
        seconds = timed_drain(self.place, self.backlog, self.events + self.beside)
        expected = self.events + self.beside * is_good
        if table.rows() != expected:
            raise RoundVoid(f"{table.rows()} rows beside a {'good' if is_good else 'bad'} neighbour, not {expected}")
        return seconds

    def _result(self, seconds: dict[str, list[float]]) -> dict[str, Any]:
        good, bad = rates(self.events, seconds["good"]), rates(self.events, seconds["bad"])
        ratios = [beside_bad / beside_good for beside_good, beside_bad in zip(good, bad, strict=True)]
        return {
            "name": "bad-input",
            "broker": self.place.broker,
            "events": self.events,
            "bad_events": self.beside,
            "rounds": len(ratios),
            "events_per_s_beside_good": round(median(good)),
            "events_per_s_beside_bad": round(median(bad)),
            "ratio": round(median(bad) / median(good), 3),
            "spread": {
                "events_per_s_beside_good": spread(good),
                "events_per_s_beside_bad": spread(bad),
                "ratio": spread(ratios, 3),
            },
            **describe(self.place),
        }


def mix(ours: Sequence[Message], neighbours: Sequence[Message]) -> list[Message]:
    """The neighbour's messages spread evenly over ours."""
    places = [((number + 0.5) / len(part), message) for part in (ours, neighbours) for number, message in enumerate(part)]
    return [message for _, message in sorted(places, key=lambda place: place[0])]


def damage(message: Message, number: int) -> Message:
    """Every event of the message made bad, in the way whose turn it is."""
    kind = number % (len(_DAMAGES) + 1)
    if kind == len(_DAMAGES):
        return Message(message.body[:-1], message.headers)
    before, after = _DAMAGES[kind]
    damaged = message.body.replace(before, after)
    if damaged == message.body:
        raise RoundVoid(f"the workload has no {before.decode()} any more")
    return Message(damaged, message.headers)
