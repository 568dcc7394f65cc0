"""Collecting deliveries into batches: by rows, by bytes and by age, and suspects in ever smaller company."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Literal

from penstock_worker.ingest.flush import Flush
from penstock_worker.ingest.source import Delivery

__all__ = ["Batch", "Buffer", "Limits", "Trigger", "gather_suspects", "halves"]

#: What closes a batch that is to be written.
Trigger = Literal["rows", "bytes", "age", "flush", "suspect"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What fills a batch: `events` by the messages' own word, `size` in bytes of messages."""

    events: int
    size: int


@dataclass(slots=True, eq=False)
class Batch:
    """
    Deliveries that are written together.

    `is_suspect` says that one of them may kill its reader; `is_innocent` that the last try of this batch ended in order.
    """

    deliveries: list[Delivery]
    trigger: Trigger | Literal["stop"]
    is_suspect: bool = False
    is_innocent: bool = False
    #: Those that wait for it.
    flushes: list[Flush] = field(default_factory=list)
    #: Events, by the messages' own word; a message without one counts as one.
    events: int = field(init=False)
    #: Bytes of all messages.
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.events = sum(_events(delivery) for delivery in self.deliveries)
        self.size = sum(delivery.size for delivery in self.deliveries)

    @property
    def is_alone(self) -> bool:
        """Whether a suspect is tried alone."""
        return self.is_suspect and len(self.deliveries) == 1

    def __str__(self) -> str:
        return f"<{self.events} events in {len(self.deliveries)} messages, {self.size / 1_000_000:.1f} MB>"


@dataclass(slots=True)
class Buffer:
    """What has been delivered and not yet been put into a batch; `size` is in bytes."""

    limits: Limits
    size: int = 0
    _events: int = 0
    _deliveries: list[Delivery] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._deliveries

    @property
    def messages(self) -> int:
        """How many wait."""
        return len(self._deliveries)

    def add_all(self, deliveries: Sequence[Delivery]) -> list[Batch]:
        """
        Take deliveries over.

        Returns:
            The batches that are now complete. A message that would burst the byte limit begins a batch of its own; suspects
            never join the others.
        """
        suspects = [delivery for delivery in deliveries if delivery.redeliveries]
        fresh = [batch for delivery in deliveries if not delivery.redeliveries for batch in self._add(delivery)]
        return fresh + gather_suspects(suspects, self.limits)

    def take(self, trigger: Trigger | Literal["stop"]) -> list[Batch]:
        """What waits, as a batch; none if nothing does. What is taken at a "stop" goes back to the broker."""
        if self.is_empty:
            return []
        deliveries, self._deliveries = self._deliveries, []
        self._events = self.size = 0
        return [Batch(deliveries, trigger)]

    def _add(self, delivery: Delivery) -> list[Batch]:
        done = self.take("bytes") if self.size + delivery.size > self.limits.size else []
        self._deliveries.append(delivery)
        self._events += _events(delivery)
        self.size += delivery.size
        if self._events >= self.limits.events:
            done += self.take("rows")
        elif self.size >= self.limits.size:
            done += self.take("bytes")
        return done


def halves(batch: Batch) -> list[Batch]:
    """A batch whose reader died, as suspects in two halves; a message that was alone is alone again."""
    middle = len(batch.deliveries) // 2
    return [_suspects(part, batch.flushes) for part in (batch.deliveries[:middle], batch.deliveries[middle:]) if part]


def gather_suspects(deliveries: Sequence[Delivery], limits: Limits) -> list[Batch]:
    """
    Suspects that came back together, as batches.

    The more often a message has come back, the smaller its company: half as many events for each time.
    """
    groups: list[list[Delivery]] = []
    room = 0
    for delivery in sorted(deliveries, key=attrgetter("redeliveries")):
        times, events = delivery.redeliveries, _events(delivery)
        if not groups or room < events or groups[-1][0].redeliveries != times:
            groups.append([])
            room = max(1, limits.events >> times)
        groups[-1].append(delivery)
        room -= events
    return [_suspects(group) for group in groups]


def _suspects(deliveries: list[Delivery], flushes: Sequence[Flush] = ()) -> Batch:
    return Batch(deliveries, "suspect", is_suspect=True, flushes=list(flushes))


def _events(delivery: Delivery) -> int:
    return max(1, delivery.count)
