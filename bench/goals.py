"""What each bench is to reach, and whether a result does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["GOALS", "Goal", "judged"]


@dataclass(frozen=True, slots=True)
class Goal:
    """
    A limit of one figure.

    Args:
        field: Where it stands in the result; a dot leads into an object.
        limit: What is just good enough.
        is_floor: More is better; else less is.
    """

    field: str
    limit: float
    is_floor: bool = True

    def text(self) -> str:
        """As a person writes it."""
        return f"{self.field} {'>=' if self.is_floor else '<='} {self.limit:,g}"

    def is_reached(self, value: float) -> bool:
        """Whether the figure is good enough."""
        return value >= self.limit if self.is_floor else value <= self.limit


def _at_least(field: str, limit: float) -> Goal:
    return Goal(field, limit)


def _at_most(field: str, limit: float) -> Goal:
    return Goal(field, limit, is_floor=False)


#: By the bench's name; by name and broker where they differ.
GOALS: dict[str, list[Goal]] = {
    "drain": [_at_least("ratio", 0.65)],
    "live": [_at_least("ratio", 0.45)],
    "update": [_at_least("ratio", 0.40)],
    "partial": [_at_least("ratio", 0.30)],
    "append": [_at_least("ratio", 0.80)],
    "small/redis": [_at_least("events_per_s", 30_000)],
    "small/rabbitmq": [_at_least("events_per_s", 10_000)],
    "publish": [
        _at_most("modes.spill.p50_us", 5),
        _at_most("modes.spill.p99_us", 50),
        _at_most("modes.spill_away.p50_us", 5),
        _at_most("modes.spill_away.p99_us", 50),
        _at_most("modes.journal.p50_us", 30),
        _at_most("modes.journal_away.p50_us", 30),
    ],
    "latency": [_at_most("p50_ms", 80), _at_most("p99_ms", 250)],
    "memory": [_at_most("ratio", 1.10), _at_most("resident_mb", 400)],
    "growth": [_at_most("ratio", 1.5)],
    "pressure": [_at_most("transactions_per_1000_events", 1)],
    "peers": [
        _at_least("times.celery_tasks", 100),
        _at_least("times.celery_batches", 50),
        _at_least("times.best_of_the_rest", 3),
    ],
    "retention": [_at_least("ratio", 0.70), _at_most("longest_lock_ms", 100), _at_most("drop.seconds", 1)],
}


def judged(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Each goal of a result's bench with the figure and whether it is reached; None where there is no figure."""
    name = result["name"]
    goals = GOALS.get(name) or GOALS.get(f"{name}/{result.get('broker')}", [])
    verdicts = []
    for goal in goals:
        value = _value_at(result, goal.field)
        verdicts.append({"goal": goal.text(), "value": value, "reached": None if value is None else goal.is_reached(value)})
    return verdicts


def _value_at(result: dict[str, Any], field: str) -> Any:
    value: Any = result
    for name in field.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value
