"""What a replay tells: how letters and their events ended, by fingerprint, and some single ones with their rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

__all__ = ["Ending", "Group", "RowChange", "Summary", "add_counts"]


def add_counts(total: dict[str, int], more: Mapping[str, int]) -> None:
    """Add counts by name."""
    for name, count in more.items():
        total[name] = total.get(name, 0) + count


@dataclass(frozen=True, slots=True)
class RowChange:
    """A row before and after an event; None where there is none."""

    event_id: str
    type: str
    key: tuple[Any, ...]
    outcome: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


@dataclass(slots=True)
class Ending:
    """
    How a letter ended.

    `outcomes` counts its events: a whole message has many. `remaining` is how many letters there are in its place; of them
    `reason` and `detail` tell the first.
    """

    id: UUID
    fingerprint: str
    outcomes: dict[str, int]
    remaining: int = 0
    reason: str | None = None
    detail: str | None = None
    #: Whether the letter itself is held still, or again.
    is_held: bool = False


@dataclass(slots=True)
class Group:
    """Letters that had one fingerprint."""

    fingerprint: str
    letters: int = 0
    remaining: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    #: Why one of them remains.
    reason: str | None = None
    detail: str | None = None


@dataclass(slots=True)
class Summary:
    """All letters that were replayed. `busy` ones somebody else had in hand; they were not touched."""

    letters: int = 0
    remaining: int = 0
    busy: list[UUID] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    endings: list[Ending] = field(default_factory=list)
    rows: list[RowChange] = field(default_factory=list)

    def add(self, ending: Ending, shown: int) -> None:
        """Count a letter; the first `shown` ones are kept."""
        self.letters += 1
        self.remaining += ending.remaining
        add_counts(self.outcomes, ending.outcomes)
        group = self.groups.setdefault(ending.fingerprint, Group(ending.fingerprint))
        group.letters += 1
        group.remaining += ending.remaining
        add_counts(group.outcomes, ending.outcomes)
        if ending.remaining and group.reason is None:
            group.reason, group.detail = ending.reason, ending.detail
        if len(self.endings) < shown:
            self.endings.append(ending)
