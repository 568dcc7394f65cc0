"""
One way of getting events into a table, beside raw COPY of the rows that it leaves there.

Each round puts the table into the same state, lets the worker store the same events, and, before or after it, lets COPY put the
very bytes that the worker left into the same table, emptied, with its key, foreign key and indexes. All of them begin after a
CHECKPOINT. A first round, which is not counted, gives the bytes and warms caches. After each measurement all rows are counted
and compared by checksum, with what was sent and, bookkeeping included, with the other rounds; else the round is void.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench.backlog import Backlog, event_count
from bench.figures import alternate, median, rates, spread
from bench.records import TASK_MD5_SQL
from bench.site import RoundVoid, Site, describe
from bench.table import Table
from bench.workers import timed_drain
from bench.workload import Message, Workload

__all__ = ["Race", "Task", "drained_tasks", "store", "task_race"]


@dataclass
class Task:
    """
    What is raced against COPY.

    Args:
        table: Where the rows go.
        events: How many.
        checksum: Of the rows as sent, see `Table.sent_digest`.
        run: Stores the events and gives the seconds that it took.
        lines_before: The table before each round, as COPY's text; empty for an empty table.
        has_fixed_versions: The same bookkeeping after each round; not where versions are stamped while the clock runs.
    """

    table: Table
    events: int
    checksum: int
    run: Callable[[], float]
    lines_before: bytes = b""
    has_fixed_versions: bool = True


@dataclass
class Race:
    """Rounds of one task and of COPY, over as many connections as asked for."""

    task: Task
    connections: tuple[int, ...] = (1,)
    _lines: bytes = b""
    _digest: int | None = None
    _rows_before: list[int] = field(default_factory=list)

    def run(self, rounds: int) -> dict[str, list[float]]:
        """Seconds by contender: `task`, `copy_1`, `copy_2`."""
        return alternate({"task": self._task, **self.copies()}, rounds)

    def copies(self) -> dict[str, Callable[[], float]]:
        """The first round, and then what measures COPY of its rows: `copy_1`, `copy_2`."""
        self._task()
        self._lines = self.task.table.export()
        return {f"copy_{number}": self._copy_over(number) for number in self.connections}

    def result(self, name: str, seconds: dict[str, list[float]], **more: Any) -> dict[str, Any]:
        """What every race tells."""
        task, place = self.task, self.task.table.place
        ours, copied = rates(task.events, seconds["task"]), rates(task.events, seconds["copy_1"])
        ratios = [mine / limit for mine, limit in zip(ours, copied, strict=True)]
        return {
            "name": name,
            "broker": place.broker,
            "events": task.events,
            "rounds": len(ratios),
            "events_per_s": round(median(ours)),
            "copy_rows_per_s": round(median(copied)),
            "ratio": round(median(ratios), 3),
            "spread": {
                "events_per_s": spread(ours),
                "copy_rows_per_s": spread(copied),
                "ratio": spread(ratios, 3),
            },
            **self.about(),
            **more,
            **describe(place),
        }

    def about(self) -> dict[str, Any]:
        """Of the table: rows, bytes, indexes, and how many events met a row that was there."""
        rows, before = self.task.table.rows(), self._rows_before[-1]
        return {
            "rows": rows,
            "bytes_per_row": round(len(self._lines) / rows),
            "indexes": self.task.table.indexes(),
            "conflict_ratio": round(1 - (rows - before) / self.task.events, 3),
        }

    def _task(self) -> float:
        table = self.task.table
        table.empty()
        if self.task.lines_before:
            table.copy(self.task.lines_before)
            table.place.connection.execute(f"VACUUM ANALYZE {table.name}")
        self._rows_before.append(table.rows())
        seconds = self.task.run()
        self._check("the events")
        return seconds

    def _copy_over(self, connections: int) -> Callable[[], float]:
        def copy() -> float:
            self.task.table.empty()
            self.task.table.place.connection.execute("CHECKPOINT")
            seconds = self.task.table.copy(self._lines, connections)
            self._check("COPY")
            return seconds

        return copy

    def _check(self, what: str) -> None:
        table = self.task.table
        if table.sent_digest() != self.task.checksum:
            raise RoundVoid(f"after {what} {table.name} is not what was sent: {table.rows()} rows of {self.task.events}")
        letters = table.place.value("SELECT count(*) FROM penstock.dead_letters")
        if letters:
            raise RoundVoid(f"{letters} dead letters after {what}")
        if not self.task.has_fixed_versions:
            return
        digest = table.digest()
        if self._digest not in (None, digest):
            raise RoundVoid(f"after {what} the bookkeeping differs from an earlier round's")
        self._digest = digest


def store(place: Site, backlog: Backlog, messages: list[Message]) -> None:
    """Have a worker store what is not measured."""
    backlog.put(messages)
    timed_drain(place, backlog, event_count(messages))


def drained_tasks(place: Site, backlog: Backlog, messages: list[Message], events: int) -> Callable[[], float]:
    """Fill the queue, then drain it: seconds of the second part."""

    def run() -> float:
        backlog.put(messages)
        place.connection.execute("CHECKPOINT")
        return timed_drain(place, backlog, events)

    return run


def task_race(place: Site, backlog: Backlog, load: Workload, connections: tuple[int, ...] = (1,)) -> Race:
    """Of a backlog of `translation.task`; its sessions, and the tasks that are there before, are stored first."""
    table = Table(place, "translation.tasks", TASK_MD5_SQL)
    store(place, backlog, load.sessions)
    lines = b""
    if load.before:
        table.empty()
        store(place, backlog, load.before)
        lines = table.export()
    run = drained_tasks(place, backlog, load.tasks, load.events)
    return Race(Task(table, load.events, load.checksum, run, lines), connections)
