"""
How many events a second more workers would store: a model of the parts' measured costs.

Every event takes CPU time of four parts: the workers' main processes, their children, PostgreSQL and the broker. Each part's
time per event is fitted as `first + per_doubling * log2(workers)`: what it takes with one worker, and what every doubling of
the workers adds, by waiting for locks, smaller batches and cold caches. From these:

* *together*: everything shares the cores of one machine, so the rate is what its cores can pay for, times the share of the
  cores' time that was used in the measurements. This is what can be compared with the measurements.
* *apart*: every worker has cores of its own, PostgreSQL has as many as it is given, the broker has one (Redis is single-
  threaded). The rate is that of the part that is used up first. A worker's children wait while PostgreSQL works for them.

What the model does not know: the network, disks (the WAL that a rate means is told), locks of more workers than were measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.figures import median

__all__ = ["PARTS", "Line", "Model", "Sample", "fit"]

PARTS = ("main", "children", "postgres", "broker")


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: the rate with so many workers, and each part's CPU microseconds per event."""

    workers: int
    events_per_s: float
    cpu_us: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Line:
    """CPU microseconds per event: with one worker, and what every doubling adds, or saves within what was measured."""

    first: float
    per_doubling: float
    measured_to: int

    def at(self, workers: int) -> float:
        """With so many workers. What was saved was measured; that more will be is not assumed."""
        reach = workers if self.per_doubling > 0 else min(workers, self.measured_to)
        return self.first + self.per_doubling * math.log2(reach)


@dataclass(frozen=True, slots=True)
class Model:
    """
    Fitted costs.

    Args:
        parts: Each part's cost.
        used: The share of the cores' time that was used.
        children: Of a worker.
    """

    parts: Mapping[str, Line]
    used: float
    children: int

    def together(self, workers: int, cores: int) -> float:
        """Events per second when all share these cores."""
        return self.used * cores * 1e6 / sum(line.at(workers) for line in self.parts.values())

    def apart(self, workers: int, database_cores: int) -> tuple[float, str]:
        """Events per second when all have cores of their own, and which part is used up."""
        postgres = self.parts["postgres"].at(workers)
        limits = {
            "main": workers * 1e6 / self.parts["main"].first,
            "children": workers * self.children * 1e6 / (self.parts["children"].first + postgres),
            "postgres": database_cores * 1e6 / postgres,
            "broker": 1e6 / self.parts["broker"].first,
        }
        part = min(limits, key=lambda name: limits[name])
        return limits[part], part

    def error(self, sample: Sample, cores: int) -> float:
        """By which share the model is above (or below) what was measured."""
        return self.together(sample.workers, cores) / sample.events_per_s - 1

    def as_dict(self) -> dict[str, Any]:
        """For the result."""
        lines = {
            part: {"cpu_us_per_event": round(line.first, 2), "per_doubling": round(line.per_doubling, 2)}
            for part, line in self.parts.items()
        }
        return {"parts": lines, "used_share_of_cores": round(self.used, 3), "children": self.children}


def fit(samples: Sequence[Sample], cores: int, children: int) -> Model:
    """The model of these measurements; at least two numbers of workers make a line."""
    parts = {part: _line([(sample.workers, sample.cpu_us[part]) for sample in samples]) for part in PARTS}
    used = [sample.events_per_s * sum(sample.cpu_us.values()) / (cores * 1e6) for sample in samples]
    return Model(parts, median(used), children)


def _line(points: Sequence[tuple[int, float]]) -> Line:
    """Least squares over log2(workers)."""
    xs, ys = [math.log2(workers) for workers, _ in points], [cost for _, cost in points]
    middle_x, middle_y = sum(xs) / len(xs), sum(ys) / len(ys)
    width = sum((x - middle_x) ** 2 for x in xs)
    slope = sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys, strict=True)) / width if width else 0.0
    return Line(middle_y - slope * middle_x, slope, max(workers for workers, _ in points))
