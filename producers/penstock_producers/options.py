"""How a producer works: one frozen object, checked once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from penstock_schemas.wire import MAX_EVENTS_PER_MESSAGE, MAX_RECORD_BYTES

__all__ = ["Durability", "OnDrop", "Options", "Policy"]

Policy = Literal["drop_newest", "drop_oldest", "block", "raise"]
Durability = Literal["spill", "journal", "memory"]
OnDrop = Callable[[int, str], object]


@dataclass(frozen=True, slots=True)
class Options:
    """The words of `Producer`; see there for their meaning and their defaults."""

    name: str
    queue: str
    policy: Policy
    max_events: int
    max_bytes: int
    block_timeout_s: float | None
    linger_s: float
    batch_events: int
    batch_bytes: int
    heartbeat_s: float
    late_after_s: float
    retry_min_s: float
    retry_max_s: float
    timeout_s: float
    exit_deadline_s: float
    on_drop: OnDrop | None
    durability: Durability
    fsync: bool
    spool_folder: Path | None
    spool_max_bytes: int

    def __post_init__(self) -> None:
        if not self.name or not self.queue:
            raise ValueError("name and queue must not be empty")
        if len(self.name) > 200:  # it travels with every message, whose size is bounded
            raise ValueError("name must be at most 200 characters")
        for word, value, choice in (("policy", self.policy, Policy), ("durability", self.durability, Durability)):
            if value not in get_args(choice):
                raise ValueError(f"{word} {value!r}: choose one of {', '.join(get_args(choice))}")
        if self.fsync and self.durability == "memory":
            raise ValueError("fsync needs a durability with a disk")
        self._check_numbers()

    def _check_numbers(self) -> None:
        for name in (
            "spool_max_bytes",
            "max_events",
            "max_bytes",
            "heartbeat_s",
            "late_after_s",
            "retry_min_s",
            "retry_max_s",
            "timeout_s",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0")
        for name in ("linger_s", "exit_deadline_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        if not 1 <= self.batch_events <= MAX_EVENTS_PER_MESSAGE:
            raise ValueError(f"batch_events must be between 1 and {MAX_EVENTS_PER_MESSAGE}")
        if not 1 <= self.batch_bytes <= MAX_RECORD_BYTES:
            raise ValueError(f"batch_bytes must be between 1 and {MAX_RECORD_BYTES}")
