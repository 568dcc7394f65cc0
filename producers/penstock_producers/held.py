"""
What a buffer holds in memory, with the lock that guards it.

| an event is | where                                                                                |
|-------------|--------------------------------------------------------------------------------------|
| pending     | it waits to be cut into an envelope                                                  |
| in flight   | in an envelope that is not confirmed yet                                             |
| moving      | on its way to disk: taken from what is pending, or a copy of what is in flight       |

The bounds count all of them, so that memory is bounded also while the broker is away. An event always fits when nothing else is
held, whatever `max_bytes`.

An exception from outside (of a signal handler, or no memory) may end what a publisher does between any two lines. So what takes
events from one place comes after what puts them into another: at worst an event is in two places, and `restore` counts anew.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from uuid import UUID

from penstock_producers.options import Options
from penstock_schemas.wire import DroppedRange, Envelope

__all__ = ["Held", "Move"]


@dataclass(slots=True, eq=False)
class Move:
    """Events on their way to the spool: pending ones, or a copy of what is in flight in an envelope."""

    begun_at: float
    thread: int = field(default_factory=threading.get_ident)
    #: Number, event, and when it was accepted.
    events: list[tuple[int, bytes, float]] = field(default_factory=list)
    size: int = 0
    #: What it is a copy of; None when the events are in no envelope, or no longer.
    envelope: Envelope | None = None
    #: How many were given up in it: the producer was closed meanwhile, and the disk refused.
    lost: int = 0


class Held:
    """
    Everything here is used with `lock` held, but for looks at single figures.

    The lock is reentrant because a signal handler or a finalizer may publish while its thread publishes. Of its two conditions
    `work` wakes the sender, `progress` wakes those who wait for it (a full buffer's publishers, flush, close).
    """

    def __init__(self, options: Options) -> None:
        self.lock = threading.RLock()
        self.work = threading.Condition(self.lock)
        self.progress = threading.Condition(self.lock)
        self.max_events = options.max_events
        self.max_bytes = options.max_bytes
        self._batch_events = options.batch_events
        #: Of one envelope: what the options say, or less when the broker does not take that.
        self.batch_bytes = options.batch_bytes

        #: Events and bytes in all three places.
        self.count = 0
        self.size = 0
        self.pending: deque[tuple[int, bytes, float]] = deque()
        self.pending_size = 0
        self.in_flight: list[Envelope] = []
        self.moving: list[Move] = []
        #: When the oldest event was accepted, and when its age is worth an alarm; infinity for "never".
        self.oldest_at = math.inf
        self.late_at = math.inf
        #: All of it was given up; what is still being written to disk is in no list any more.
        self.is_abandoned = False

        self._options = options
        #: When the first event of an envelope in flight was accepted, by its number.
        self._accepted_at: dict[int, float] = {}
        #: The sender was told that what is pending fills a batch.
        self._is_full_batch = False

    # --- coming

    def has_room(self, size: int, count: int = 1) -> bool:
        if self.count + count > self.max_events:
            return False
        return self.size + size <= self.max_bytes or (self.count == 0 and count == 1)

    def hold(self, seq: int, event: bytes, size: int, now: float) -> None:
        """Take an event in; the sender is woken for the first, to let it linger, and for the one that fills a batch."""
        self.pending.append((seq, event, now))
        self.pending_size += size
        self.size += size
        self.count += 1
        if self.count == 1:
            self._set_oldest(now)
        waiting = len(self.pending)
        if waiting == 1:
            self.work.notify()
        # `is_batch_full`, written out: this is the way of nearly every event.
        elif (waiting >= self._batch_events or self.pending_size >= self.batch_bytes) and not self._is_full_batch:
            self._is_full_batch = True
            self.work.notify()

    def is_batch_full(self) -> bool:
        """Whether what is pending fills an envelope."""
        return len(self.pending) >= self._batch_events or self.pending_size >= self.batch_bytes

    # --- what is known

    @property
    def is_full(self) -> bool:
        return self.count >= self.max_events or self.size >= self.max_bytes

    def first(self) -> float:
        """The lowest number; infinity when there is none."""
        firsts = [envelope.seq for envelope in self.in_flight if envelope.events]
        firsts += [move.events[0][0] for move in self.moving]
        if self.pending:
            firsts.append(self.pending[0][0])
        return min(firsts, default=math.inf)

    def unsent_seqs(self) -> Iterator[int]:
        """Of what is pending and moving, in no order; some may come twice."""
        return (seq for seq, *_ in chain(self.pending, *(move.events for move in self.moving)))

    def accepted_at(self, envelope: Envelope) -> float:
        """When the first event of an envelope in flight was accepted."""
        return self._accepted_at.get(envelope.seq, self.oldest_at)

    def look_for_oldest(self) -> None:
        """After the oldest event may have gone."""
        if not self.in_flight:
            moving = min((move.events[0][2] for move in self.moving), default=math.inf)
            self._set_oldest(min(moving, self.pending[0][2] if self.pending else math.inf))

    def _set_oldest(self, accepted_at: float) -> None:
        self.oldest_at = accepted_at
        self.late_at = accepted_at + self._options.late_after_s

    # --- going

    def discard_oldest(self) -> None:
        """Give up the oldest pending event; the caller has counted it."""
        _, event, _ = self.pending.popleft()
        self.pending_size -= len(event)
        self.release(1, len(event))

    def cut(self, epoch: UUID, dropped: Sequence[DroppedRange], reply_to: str | None) -> int:
        """
        Put one envelope of the oldest pending events in flight: numbered without gaps, within a batch's bounds, at least one.

        Returns:
            The bytes of its events.
        """
        pending = self.pending
        events: list[bytes] = []
        size = 0
        first = pending[0][0]
        self._accepted_at[first] = pending[0][2]
        while pending and len(events) < self._batch_events:
            seq, event, _ = pending[0]
            if events and (seq != first + len(events) or size + len(event) > self.batch_bytes):
                break
            pending.popleft()
            events.append(event)
            size += len(event)
        self.pending_size -= size
        self._is_full_batch = self.is_batch_full()
        self.in_flight.append(Envelope(self._options.name, epoch, first, events, dropped, reply_to))
        return size

    def is_in_flight(self, envelope: Envelope) -> bool:
        return any(envelope is other for other in self.in_flight)

    def copy_of(self, envelope: Envelope) -> Move | None:
        """The move that copies it to disk at this moment."""
        return next((move for move in self.moving if move.envelope is envelope), None)

    def take_out(self, envelope: Envelope) -> float | None:
        """Of those in flight; when its first event was accepted. It counts until `release`."""
        self.in_flight = [other for other in self.in_flight if other is not envelope]
        return self._accepted_at.pop(envelope.seq, None) if envelope.events else None

    def put_back(self, envelope: Envelope) -> None:
        """
        What was in flight is pending again, as the oldest.

        But when it is being copied to disk it is that move's from now on: pending as well, it could be cut, confirmed and moved
        anew before the move ends, which then could not tell whether the disk's copy is needed.
        """
        if (move := self.copy_of(envelope)) is not None:
            move.envelope = None
            self.take_out(envelope)
            return
        accepted_at = self.accepted_at(envelope)
        events = [(seq, event, accepted_at) for seq, event in enumerate(envelope.events, envelope.seq)]
        self.pending.extendleft(reversed(events))
        self.pending_size += sum(map(len, envelope.events))
        self.take_out(envelope)

    def release(self, count: int, size: int) -> None:
        """These are held no longer."""
        self.count -= count
        self.size -= size
        self.progress.notify_all()

    def abandon(self) -> None:
        """Forget everything."""
        self.is_abandoned = True
        self.pending.clear()
        self.pending_size = 0
        self.moving.clear()
        self.in_flight.clear()
        self.look_for_oldest()
        self.release(self.count, self.size)
        self.work.notify_all()

    def restore(self) -> None:
        """Count anew, after an exception from outside."""
        moving = {seq: event for move in self.moving if move.envelope is None for seq, event, _ in move.events}
        pending = {seq: (seq, event, at) for seq, event, at in self.pending if seq not in moving}
        self.pending.clear()
        self.pending.extend(pending[seq] for seq in sorted(pending))
        held = [event for _, event, _ in self.pending] + list(moving.values())
        held += [event for envelope in self.in_flight for event in envelope.events]
        self.pending_size = sum(len(event) for _, event, _ in self.pending)
        self.count, self.size = len(held), sum(map(len, held))
        self._is_full_batch = self.is_batch_full()
        self.look_for_oldest()
        self.wake()

    def wake(self) -> None:
        """The sender, and all who wait for it."""
        self.work.notify_all()
        self.progress.notify_all()
