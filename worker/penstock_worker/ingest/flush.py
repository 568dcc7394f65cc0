"""
Flushes: what a worker held when it was told to write it now, and what has become of that.

A control command must be answered at once, or the event loop stood still meanwhile. So the first one begins a flush, under an
id that the asker gives; further ones ask how far it is, see `penstock_worker.maintenance.flush`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock_worker.ingest.batch import Batch

__all__ = ["Flush", "Flushes"]

#: Flushes that a worker remembers, the last ones: more than can be asked for at a time.
_REMEMBERED = 100


class Flush:
    """
    Some batches, and how many of their messages are not acknowledged yet.

    The batches know it, and tell it when they are acknowledged; those that are written in parts have parts that know it.
    """

    def __init__(self, batches: Iterable[Batch], clock: Callable[[], float]) -> None:
        self._clock, self._began_at = clock, clock()
        self._ended_at: float | None = None
        self.messages = self.events = 0
        for batch in batches:
            batch.flushes.append(self)
            self.messages += len(batch.deliveries)
            self.events += batch.events
        self.unwritten = self.messages
        self._end_if_written()

    def written(self, messages: int) -> None:
        """So many are acknowledged, after their commit."""
        self.unwritten -= messages
        self._end_if_written()

    @property
    def ms(self) -> float:
        """From its begin until all was acknowledged, or until now."""
        return round(1000 * ((self._ended_at or self._clock()) - self._began_at), 1)

    def _end_if_written(self) -> None:
        if not self.unwritten:
            self._ended_at = self._clock()


class Flushes:
    """The last flushes of a worker, by their ids."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._flushes: dict[str, Flush] = {}

    def begin(self, id: str, batches: Iterable[Batch]) -> None:
        """Begin one of all that the worker holds; an id that was given before goes on meaning what it meant."""
        if id in self._flushes:
            return
        self._flushes[id] = Flush(batches, self._clock)
        if len(self._flushes) > _REMEMBERED:
            del self._flushes[next(iter(self._flushes))]

    def look(self, id: str, held: Iterable[Batch]) -> dict[str, Any] | None:
        """
        How far a flush is; `held` are the batches in hand now.

        Returns:
            Messages and events that it was begun with, milliseconds so far or until its end, messages that are `unwritten`, and
            how many of these are in hand no more, because they went back to the broker. None if it is not known.
        """
        flush = self._flushes.get(id)
        if flush is None:
            return None
        in_hand = sum(len(batch.deliveries) for batch in held if flush in batch.flushes)
        returned = flush.unwritten - in_hand
        return {name: getattr(flush, name) for name in ("messages", "events", "ms", "unwritten")} | {"returned": returned}
