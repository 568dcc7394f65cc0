"""
The bounded buffer between `publish()` and the sender: numbers events, holds them until they are confirmed, cuts envelopes.

One lock, reentrant because a signal handler or a finalizer may publish while its thread publishes, with two conditions:
`work` wakes the sender, `progress` wakes those who wait for it (a full buffer's publishers, flush, close).

An event is pending (waits to be cut), then in flight (in an envelope that is not confirmed yet), then gone. The bounds count
both, so that memory is bounded also while the broker is away. An event always fits into an empty buffer, whatever `max_bytes`.

With a spool, events move there when the broker takes nothing or the buffer is full. They are moving while they are written,
which is done without the lock: publish() waits for no disk. What is in flight is copied, and then is the spool's: its late
confirm takes it out there.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING
from uuid import UUID

from penstock_producers.drops import BUFFER_FULL, CLOSE_DEADLINE, INTERRUPTED, SPOOL_CORRUPT, Drops
from penstock_producers.errors import BufferFull, ProducerClosed
from penstock_producers.options import Options
from penstock_producers.spool.section import is_owned
from penstock_schemas.answer import MAX_QUERY_RANGES, SeqRange
from penstock_schemas.ranges import Ranges
from penstock_schemas.wire import DroppedRange, Envelope

if TYPE_CHECKING:
    from penstock_producers.spool.spool import Spool

__all__ = ["Buffer"]

#: Dropped ranges in one envelope: at most 50 bytes each, so that they fit beside a record of the largest size.
_RANGES_PER_ENVELOPE = 500
#: Events and bytes that move to the spool at one time: a publisher who finds no room moves that many, and has room for as many.
_MOVE_EVENTS = 1_000
_MOVE_BYTES = 1024 * 1024
#: Seconds since its begin that a publisher waits for another one's move, and for others who use the disk, before the policy is
#: asked: a disk may hang.
_PATIENCE_S = 1.0


@dataclass(slots=True, eq=False)
class _Move:
    """Events on their way to the spool: pending ones, or a copy of what is in flight in an envelope."""

    begun_at: float
    thread: int = field(default_factory=threading.get_ident)
    events: list[tuple[int, bytes, float]] = field(default_factory=list)
    size: int = 0
    envelope: Envelope | None = None
    #: How many were given up in it: the producer was closed meanwhile, and the disk refused.
    lost: int = 0


class Buffer:
    """
    What one process start or fork of a producer holds.

    Args:
        tell: Called with (count, reason) after events were dropped, never under the lock.
        now: A monotonic clock, in seconds.
    """

    def __init__(
        self, options: Options, epoch: UUID, tell: Callable[[int, str], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        self.epoch = epoch
        self.drops = Drops()
        self.in_flight: list[Envelope] = []
        self.next_seq = 0
        self.confirmed = 0
        self.held_events = 0
        self.held_bytes = 0
        #: When the oldest event held was accepted, and when its age is worth an alarm; infinity for "never".
        self.oldest_at = math.inf
        self.late_at = math.inf
        self.is_closing = False
        self.is_abandoned = False
        #: Where events that are cut now are to be answered; None while nobody waits for answers.
        self.reply_to: str | None = None

        #: Where events go that cannot stay in memory; None with durability "memory".
        self.spool: Spool | None = None
        #: Grows when waiting for the next attempt is over: closing began, or somebody wants it to be tried now.
        self.urgency = 0
        #: Seconds between acceptance and confirm of the oldest event confirmed last.
        self.latency_s: float | None = None

        self._options = options
        self._max_events = options.max_events
        self._max_bytes = options.max_bytes
        self._tell = tell
        self._now = now
        self.lock = threading.RLock()
        self.work = threading.Condition(self.lock)
        self.progress = threading.Condition(self.lock)
        self._pending: deque[tuple[int, bytes, float]] = deque()
        self._queries: deque[Envelope] = deque()
        self._moving: list[_Move] = []
        #: When the first event of an envelope in flight was accepted, by its number.
        self._accepted_at: dict[int, float] = {}
        self._pending_bytes = 0
        self._is_full_batch = False
        self._flush_before = 0
        self._announced_seq = 0
        self._idle_since = now()
        self._is_close_announced = False

    # --- the publishers' side

    def accept(self, event: bytes) -> int:
        """
        Take an event and give it its number. The policy decides what happens when there is no room.

        Raises:
            BufferFull: No room, by the policies "raise" and "block"; the event has no number.
            ProducerClosed: After `close`.
        """
        size = len(event)
        with self.lock:
            # `_has_room`, written out: this is the way of nearly every event.
            if self.held_events < self._max_events and self.held_bytes + size <= self._max_bytes and not self.is_closing:
                # The number first: an event published by a signal handler in between then gets the next one.
                seq = self.next_seq
                try:
                    self.next_seq = seq + 1
                    self._hold(seq, event, size)
                except BaseException:
                    self._account(seq, 1)
                    raise
                return seq
        return self._accept_crowded(event, size)

    def accept_many(self, events: Sequence[bytes]) -> list[int]:
        """Like `accept` for each; under the policy "raise" all of them or none."""
        if self._options.policy != "raise":
            return [self.accept(event) for event in events]
        size = sum(map(len, events))
        while not self._has_room(size, len(events)) and (self.move_to_spool(_PATIENCE_S) or self._await_move()):
            pass
        with self.lock:
            if not self._has_room(size, len(events)):
                raise BufferFull(self._full())
            return [self.accept(event) for event in events]

    @property
    def is_full(self) -> bool:
        """Whether the next event may have to move others to the spool first."""
        return self.held_events >= self._max_events or self.held_bytes >= self._max_bytes

    def _has_room(self, size: int, count: int = 1) -> bool:
        if self.held_events + count > self._max_events:
            return False
        return self.held_bytes + size <= self._max_bytes or (self.held_events == 0 and count == 1)

    def _hold(self, seq: int, event: bytes, size: int) -> None:
        now = self._now()
        self._pending.append((seq, event, now))
        self._pending_bytes += size
        self.held_bytes += size
        self.held_events += 1
        if self.held_events == 1:
            self._set_oldest(now)
        # The sender is woken for the first event, to let it linger, and for the one that fills a batch; never in between.
        if len(self._pending) == 1:
            self.work.notify()
        elif not self._is_full_batch and self._is_batch_full():
            self._is_full_batch = True
            self.work.notify()

    def _is_batch_full(self) -> bool:
        return len(self._pending) >= self._options.batch_events or self._pending_bytes >= self._options.batch_bytes

    def _accept_crowded(self, event: bytes, size: int) -> int:
        while not self.is_closing and (self.move_to_spool(_PATIENCE_S) or self._await_move()):
            with self.lock:
                if self._has_room(size):
                    return self.accept(event)
        with self.lock:
            if self._options.policy == "block":
                timeout_s = self._options.block_timeout_s
                self.progress.wait_for(lambda: self.is_closing or self._has_room(size), timeout_s)
            if self.is_closing:
                raise ProducerClosed("the producer is closed")
            if self._options.policy in ("block", "raise") and not self._has_room(size):
                raise BufferFull(self._full())
            seq, dropped = self._number_crowded(event, size)
        if dropped:
            self._tell(dropped, BUFFER_FULL)
        return seq

    def _number_crowded(self, event: bytes, size: int) -> tuple[int, int]:
        """Its number, and how many were dropped for it, itself included."""
        dropped = 0
        seq = self.next_seq
        try:
            if self._options.policy == "drop_oldest":
                dropped = self._drop_oldest(size)
            seq = self.next_seq
            self.next_seq = seq + 1
            if self._has_room(size):
                self._hold(seq, event, size)
            else:
                self.drops.add(seq, BUFFER_FULL)
                dropped += 1
                self.work.notify()
        except BaseException:
            self._account(seq, 1)
            raise
        return seq, dropped

    # --- after an exception that came from outside: of a signal handler, or no memory

    def _account(self, first: int, count: int) -> None:
        """Have each of these numbers, if it was given at all, be held or dropped: else the ledger misses it for ever."""
        held = {seq for seq, *_ in self._pending}.union(*({seq for seq, *_ in move.events} for move in self._moving))
        for seq in range(first, min(first + count, self.next_seq)):
            if seq not in held and seq not in self.drops.seqs:
                self.drops.add(seq, INTERRUPTED)
        self._restore()

    def _restore(self) -> None:
        """Count anew what is held; no list ever lacks an event that is in no other, at worst it is in two."""
        moving = {seq: event for move in self._moving if move.envelope is None for seq, event, _ in move.events}
        pending = {seq: (seq, event, at) for seq, event, at in self._pending if seq not in moving}
        self._pending.clear()
        self._pending.extend(pending[seq] for seq in sorted(pending))
        held = [event for _, event, _ in self._pending] + list(moving.values())
        held += [event for envelope in self.in_flight for event in envelope.events]
        self._pending_bytes = sum(len(event) for _, event, _ in self._pending)
        self.held_events, self.held_bytes = len(held), sum(map(len, held))
        self._is_full_batch = self._is_batch_full()
        self._look_for_oldest()
        self.work.notify_all()
        self.progress.notify_all()

    def _full(self) -> str:
        return f"{self.held_events} events ({self.held_bytes} bytes) wait for the broker"

    def _drop_oldest(self, size: int) -> int:
        """Make room. What is in flight cannot be taken back: without pending events there may be none."""
        dropped = 0
        while self._pending and not self._has_room(size):
            self.drops.add(self._pending[0][0], BUFFER_FULL)
            _, event, _ = self._pending.popleft()
            self._pending_bytes -= len(event)
            self._release(1, len(event))
            dropped += 1
        self._look_for_oldest()
        return dropped

    def _set_oldest(self, accepted_at: float) -> None:
        self.oldest_at = accepted_at
        self.late_at = accepted_at + self._options.late_after_s

    def _look_for_oldest(self) -> None:
        if not self.in_flight:
            moving = min((move.events[0][2] for move in self._moving), default=math.inf)
            self._set_oldest(min(moving, self._pending[0][2] if self._pending else math.inf))

    def _release(self, events: int, size: int) -> None:
        self.held_events -= events
        self.held_bytes -= size
        self.progress.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Send what was accepted so far without lingering; whether all of it was confirmed or dropped in time."""
        with self.lock:
            target = self.next_seq
            self._flush_before = max(self._flush_before, target)
            self.work.notify()
            return self.progress.wait_for(lambda: self.first_unconfirmed() >= target, timeout_s)

    def sync(self, timeout_s: float) -> bool:
        """Have all of it tried now, the spool's too, and wait; whether all of it was confirmed or dropped in time."""
        with self.lock:
            self._flush_before = self.next_seq
            self.urgency += 1
            self.work.notify_all()
            # Not only for what can be read just now: a disk that refuses a read has it still.
            return self.progress.wait_for(
                lambda: self.held_events == 0 and (self.spool is None or not self.spool.has_unsent), timeout_s
            )

    def first_held(self) -> float:
        """The lowest number that is in memory and not confirmed; infinity when there is none."""
        with self.lock:
            firsts = [envelope.seq for envelope in self.in_flight if envelope.events]
            firsts += [move.events[0][0] for move in self._moving]
            if self._pending:
                firsts.append(self._pending[0][0])
            return min(firsts, default=math.inf)

    def first_unconfirmed(self) -> float:
        """The same, of the spool as well."""
        return min(self.first_held(), math.inf if self.spool is None else self.spool.first_unsent)

    def wake(self) -> None:
        """There is something to send, or somebody may have waited for what just happened."""
        with self.lock:
            self.work.notify_all()
            self.progress.notify_all()

    def answer_to(self, address: str | None) -> int:
        """From now on have events answered there. The number of the first that will be, of those that are still to be cut."""
        with self.lock:
            self.reply_to = address
            return self._pending[0][0] if self._pending else self.next_seq

    def hurry(self, last: int) -> None:
        """Do not let events linger, up to a number."""
        with self.lock:
            if last >= self._flush_before:
                self._flush_before = last + 1
                self.work.notify()

    def has_dropped(self, first: int, last: int) -> bool:
        """Whether all of these numbers were given up lately."""
        with self.lock:
            return self.drops.seqs.covers(first, last)

    def ask(self, epoch: UUID, ranges: Sequence[SeqRange]) -> None:
        """
        Ask, ahead of all that waits, what became of numbers of an epoch; the answer goes to `reply_to`.

        While the broker is away questions do not pile up: those about one epoch become one. None of them is left out, for a
        journal and somebody who waits for a receipt may ask at the same time.
        """
        with self.lock:
            asked = Ranges(ranges)
            for query in self._queries:
                for part in query.query if query.epoch == epoch else ():
                    asked.add(*part)
            joined = tuple(asked)[:MAX_QUERY_RANGES]
            self._queries = deque(query for query in self._queries if query.epoch != epoch)
            self._queries.append(Envelope(self._options.name, epoch, 0, reply_to=self.reply_to, query=joined))
            self.work.notify()

    def begin_close(self) -> None:
        """From now on nothing is accepted; the sender sends the rest, says that it was the last, and ends."""
        with self.lock:
            self.urgency += not self.is_closing
            self.is_closing = True
            self.work.notify_all()
            self.progress.notify_all()

    def abandon(self) -> int:
        """Give up what is still held, but for what is being written to disk, and say how many events that were."""
        with self.lock:
            abandoned = self.held_events - sum(len(move.events) for move in self._moving)
            if abandoned:
                self.drops.totals[CLOSE_DEADLINE] += abandoned
            self._forget_all()
        if abandoned:
            self._tell(abandoned, CLOSE_DEADLINE)
        return abandoned

    def _forget_all(self) -> None:
        self.is_closing = self.is_abandoned = True
        self._pending.clear()
        self._pending_bytes = 0
        self._moving.clear()
        for envelope in self.in_flight:
            self.drops.put_back(envelope.dropped)
        self.in_flight.clear()
        self._look_for_oldest()
        self._release(self.held_events, self.held_bytes)
        self.work.notify_all()

    # --- on the way to the spool

    def lose(self, ranges: Sequence[SeqRange]) -> None:
        """The spool cannot read these any more: they count as dropped."""
        count = 0
        with self.lock:
            for first, last in ranges:
                for seq in range(first, last + 1):
                    self.drops.add(seq, SPOOL_CORRUPT)
                count += last - first + 1
            self.work.notify_all()
            self.progress.notify_all()
        self._tell(count, SPOOL_CORRUPT)

    def take_drops(self) -> list[DroppedRange]:
        """Dropped numbers that no envelope has told of; they are the caller's to tell now."""
        with self.lock:
            return self.drops.take()

    def stalled_at(self) -> float:
        """Since when the broker has confirmed nothing although there was something to confirm; infinity for not at all."""
        return max(self.oldest_at, self._idle_since)

    @property
    def is_entered(self) -> bool:
        """Whether this thread is in the middle of something here: a signal handler has interrupted it."""
        return is_owned(self.lock) or any(move.thread == threading.get_ident() for move in self._moving)

    def move_to_spool(self, patience_s: float | None = None) -> bool:
        """
        Move the oldest events, up to a thousand: pending ones first. False when there are none, or the disk refuses.

        Args:
            patience_s: See `Spool.append`.
        """
        if self.spool is None:
            return False
        move = _Move(self._now())
        try:
            with self.lock:
                if not self._begin_move(move):
                    return False
            rows = [(seq, event) for seq, event, _ in move.events]
            is_moved = self.spool.append(rows, move.events[0][2], patience_s)
            with self.lock:
                is_late = self._end_move(move, is_moved=is_moved)
        except BaseException:
            # Of a signal handler, or no memory: the events stay. What is on disk already will be there twice, which is once.
            with self.lock:
                self._end_move(move, is_moved=False)
                self._restore()
            raise
        if is_late and move.envelope is not None:
            self.spool.confirm(move.envelope)  # while it was written
        if move.lost:
            self._tell(move.lost, CLOSE_DEADLINE)
        return is_moved

    def _await_move(self) -> bool:
        """Wait until others have moved what there was to move; False when nobody does, or their disk hangs."""
        with self.lock:
            others = [move for move in self._moving if move.thread != threading.get_ident()]
            if not others:
                return False
            left_s = others[0].begun_at + _PATIENCE_S - self._now()
            return self.progress.wait_for(lambda: others[0] not in self._moving, max(0.0, left_s))

    def await_moves(self, timeout_s: float) -> bool:
        """Wait until nothing is being moved; whether that is so."""
        with self.lock:
            return self.progress.wait_for(lambda: not self._moving, timeout_s)

    def _begin_move(self, move: _Move) -> bool:
        if any(move.thread == other.thread for other in self._moving):
            return False  # an event that interrupts a move moves nothing itself
        # Known before it takes anything, and taken by one call: at no moment an exception leaves events in neither place.
        self._moving.append(move)
        count = 0
        for _, event, _ in list(islice(self._pending, _MOVE_EVENTS)):
            if move.size >= _MOVE_BYTES:
                break
            count += 1
            move.size += len(event)
        move.events.extend(islice(iter(self._pending.popleft, None), count))
        self._pending_bytes -= move.size
        if not move.events:
            copied = [id(other.envelope) for other in self._moving]
            envelope = next((one for one in self.in_flight if one.events and id(one) not in copied), None)
            if envelope is None:
                self._moving.remove(move)
                return False
            accepted_at = self._accepted_at.get(envelope.seq, self.oldest_at)
            move.envelope = envelope
            move.size = sum(map(len, envelope.events))
            move.events.extend([(seq, event, accepted_at) for seq, event in enumerate(envelope.events, envelope.seq)])
        return True

    def _end_move(self, move: _Move, *, is_moved: bool) -> bool:
        """Whether it was confirmed meanwhile."""
        if move not in self._moving:
            if self.is_abandoned and not is_moved:
                move.lost = len(move.events)
                self.drops.totals[CLOSE_DEADLINE] += move.lost
            return False
        is_in_flight = any(move.envelope is envelope for envelope in self.in_flight)
        # What takes events from one place is after what puts them into another, for the same reason.
        if is_moved and (move.envelope is None or is_in_flight):
            self._moving.remove(move)
            if move.envelope is not None:
                self.drops.put_back(move.envelope.dropped)
                self._take_out(move.envelope)
            self._look_for_oldest()
            self._release(len(move.events), move.size)
        else:
            if move.envelope is None:
                self._pending.extendleft(reversed(move.events))
                self._pending_bytes += move.size
            self._moving.remove(move)
        self.work.notify_all()
        self.progress.notify_all()
        return is_moved and move.envelope is not None and not is_in_flight

    def _take_out(self, envelope: Envelope) -> float | None:
        """From those in flight; when its first event was accepted."""
        self.in_flight = [other for other in self.in_flight if other is not envelope]
        return self._accepted_at.pop(envelope.seq, None) if envelope.events else None

    # --- the sender's side

    def cut(self, limit: int, limit_bytes: int) -> list[Envelope]:
        """
        Wait until something is due, then put it in flight.

        Returns:
            What is in flight: up to `limit` envelopes, and no more of them once they hold `limit_bytes`. First what an earlier
            sender left there. None at all when the buffer is closed and empty.
        """
        with self.lock:
            while not self.in_flight and not self.is_abandoned and (due_in_s := self.due_in_s()) > 0:
                self.work.wait(None if math.isinf(due_in_s) else due_in_s)
            if self.in_flight or self.is_abandoned:
                return list(self.in_flight)
            size = self._cut_first()
        # The lock is given back between envelopes, so that publish() never waits for more than one being cut.
        while len(self.in_flight) < limit and size < limit_bytes:
            with self.lock:
                if not self._pending or not (self._is_batch_full() or self._is_forced()):
                    break
                size += self._cut_events(())
        return list(self.in_flight)

    def _is_forced(self) -> bool:
        return self.is_closing or (bool(self._pending) and self._pending[0][0] < self._flush_before)

    def due_in_s(self) -> float:
        """Seconds until the sender has something to do: 0 for now, infinity for not before something happens."""
        # Forced or not, events that are moving are waited for: before that is over there is no end to be told.
        is_moving = bool(self._moving) and not self._pending
        spool_in_s = math.inf if self.spool is None else self.spool.due_in_s()
        if self._queries or self._is_batch_full() or spool_in_s <= 0 or (self._is_forced() and not is_moving):
            return 0
        return min(spool_in_s, math.inf if is_moving else max(0, self._due_at() - self._now()))

    def _due_at(self) -> float:
        if self._pending:
            return self._pending[0][2] + self._options.linger_s
        if self.drops:
            return self._idle_since + self._options.linger_s
        return self._idle_since + self._options.heartbeat_s if self.next_seq != self._announced_seq else math.inf

    def _is_spool_due(self) -> bool:
        return self.spool is not None and self.spool.due_in_s() <= 0

    def _cut_first(self) -> int:
        if self._queries:
            self.in_flight.append(self._queries.popleft())
            return 0
        dropped = self.drops.take(_RANGES_PER_ENVELOPE) if self.drops else ()
        if self._pending:
            return self._cut_events(dropped)
        has_spooled = self.spool is not None and not math.isinf(self.spool.first_unsent)
        if self.is_closing and (self._is_close_announced or self.next_seq == 0):
            return 0
        if not dropped and (has_spooled if self.is_closing else self._is_spool_due()):
            return 0  # it is the spool that is due
        self._announced_seq = self.next_seq
        self._is_close_announced = self.is_closing and not self.drops and not has_spooled
        name = self._options.name
        self.in_flight.append(Envelope(name, self.epoch, self.next_seq, (), dropped, is_closed=self._is_close_announced))
        return 0

    def _cut_events(self, dropped: Sequence[DroppedRange]) -> int:
        """One envelope from the oldest pending events: numbered without gaps, within a batch's bounds, at least one."""
        pending = self._pending
        events: list[bytes] = []
        size = 0
        first = pending[0][0]
        self._accepted_at[first] = pending[0][2]
        while pending and len(events) < self._options.batch_events:
            seq, event, _ = pending[0]
            if events and (seq != first + len(events) or size + len(event) > self._options.batch_bytes):
                break
            pending.popleft()
            events.append(event)
            size += len(event)
        self._pending_bytes -= size
        self._is_full_batch = self._is_batch_full()
        self.in_flight.append(Envelope(self._options.name, self.epoch, first, events, dropped, self.reply_to))
        return size

    def confirm(self, envelope: Envelope) -> None:
        """The broker has it."""
        now = self._now()
        with self.lock:
            is_held = any(envelope is other for other in self.in_flight)
            if is_held:
                accepted_at = self._take_out(envelope)
                if accepted_at is not None:
                    self.latency_s = now - accepted_at
                self.confirmed += len(envelope.events)
                self._idle_since = now
                self._look_for_oldest()
                self._release(len(envelope.events), sum(map(len, envelope.events)))
        if self.spool is None or (is_held and not (self.spool.is_journal and envelope.events)):
            return  # nothing of it is on disk; or abandoned meanwhile, and counted as dropped
        oldest_at = self.spool.oldest_at
        spooled = self.spool.confirm(envelope)
        with self.lock:
            self.confirmed += spooled
            self._idle_since = now
            if spooled and not is_held and not math.isinf(oldest_at):
                self.latency_s = now - oldest_at
            self.progress.notify_all()

    def wait_to_retry(self, delay_s: float, urgency: int) -> None:
        """Wait before the next attempt, unless it became urgent since the failed one began."""
        with self.lock:
            self.work.wait_for(lambda: self.is_abandoned or self.urgency != urgency, delay_s)
