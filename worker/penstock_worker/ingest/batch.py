"""Collecting deliveries into batches: by rows, by bytes and by age, and suspects in ever smaller company."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from penstock_worker.ingest.source import Delivery

__all__ = ["Batch", "Buffer", "Limits", "gather_suspects", "halves"]


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

    deliveries: list[Delivery] = field(default_factory=list)
    is_suspect: bool = False
    is_innocent: bool = False
    trigger: str = ""

    @property
    def events(self) -> int:
        """Events, by the messages' own word; a message without one counts as one."""
        return sum(max(1, delivery.count) for delivery in self.deliveries)

    @property
    def size(self) -> int:
        """Bytes of all messages."""
        return sum(delivery.size for delivery in self.deliveries)

    @property
    def is_alone(self) -> bool:
        """Whether a suspect is tried alone."""
        return self.is_suspect and len(self.deliveries) == 1

    def __str__(self) -> str:
        return f"<{self.events} events in {len(self.deliveries)} messages, {self.size / 1_000_000:.1f} MB>"


@dataclass(slots=True)
class Buffer:
    """What has been delivered and not yet been put into a batch."""

    limits: Limits
    _fresh: Batch = field(default_factory=Batch)
    _events: int = 0
    _size: int = 0

    @property
    def size(self) -> int:
        """Bytes of all messages that wait."""
        return self._size

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._fresh.deliveries

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

    def _add(self, delivery: Delivery) -> list[Batch]:
        done = []
        if self._fresh.deliveries and self._size + delivery.size > self.limits.size:
            done += self.take("bytes")
        self._fresh.deliveries.append(delivery)
        self._events += max(1, delivery.count)
        self._size += delivery.size
        if self._events >= self.limits.events:
            done += self.take("rows")
        elif self._size >= self.limits.size:
            done += self.take("bytes")
        return done

    def take(self, trigger: str) -> list[Batch]:
        """What waits, as a batch; none if nothing does."""
        if self.is_empty:
            return []
        batch, self._fresh = self._fresh, Batch()
        self._events = self._size = 0
        batch.trigger = trigger
        return [batch]


def halves(batch: Batch) -> list[Batch]:
    """A batch whose reader died, as suspects in two halves; a message that was alone is alone again."""
    middle = len(batch.deliveries) // 2
    parts: list[Sequence[Delivery]] = [batch.deliveries[:middle], batch.deliveries[middle:]]
    return [Batch(list(part), is_suspect=True, trigger="suspect") for part in parts if part]


def gather_suspects(deliveries: Sequence[Delivery], limits: Limits) -> list[Batch]:
    """
    Suspects that came back together, as batches.

    The more often a message has come back, the smaller its company: half as many events for each time.
    """
    batches: list[Batch] = []
    room = 0
    for delivery in sorted(deliveries, key=attrgetter("redeliveries")):
        times, events = delivery.redeliveries, max(1, delivery.count)
        if not batches or room < events or batches[-1].deliveries[0].redeliveries != times:
            batches.append(Batch([], is_suspect=True, trigger="suspect"))
            room = max(1, limits.events >> times)
        batches[-1].deliveries.append(delivery)
        room -= events
    return batches
