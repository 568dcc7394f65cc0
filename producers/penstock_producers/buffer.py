"""
The bounded buffer between `publish()` and the sender: numbers events, holds them until they are confirmed, says what is due.

`held` says where an event can be meanwhile, `moves` how it comes to disk: with a spool, that is where events go when the broker
takes nothing or memory is full. publish() waits for a disk only when memory is full: while it moves a thousand events there to
make room, and up to a second for others who do.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from penstock_producers.doorway import Doorway
from penstock_producers.drops import (
    BUFFER_FULL,
    CLOSE_DEADLINE,
    INTERRUPTED,
    RANGES_PER_ENVELOPE,
    SPOOL_CORRUPT,
    TOO_LARGE,
    Drops,
)
from penstock_producers.errors import BufferFull, ProducerClosed
from penstock_producers.held import Held
from penstock_producers.moves import Moves
from penstock_producers.options import Options
from penstock_producers.questions import Queries
from penstock_producers.spool.section import is_owned
from penstock_schemas.answer import SeqRange
from penstock_schemas.wire import DroppedRange, Envelope

if TYPE_CHECKING:
    from penstock_producers.spool.spool import Spool

__all__ = ["Buffer"]


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
        self.held = Held(options)
        self.lock, self.work, self.progress = self.held.lock, self.held.work, self.held.progress
        self.drops = Drops()
        self.next_seq = 0
        self.confirmed = 0
        self.is_closing = False
        #: Where events that are cut now are to be answered; None while nobody waits for answers.
        self.reply_to: str | None = None
        #: Where events go that cannot stay in memory; None with durability "memory".
        self.spool: Spool | None = None
        #: Grows when waiting for the next attempt is over: closing began, or somebody wants it to be tried now.
        self.urgency = 0
        #: Until then a failed attempt is repeated soon: the time that closing has.
        self.urgent_until = -math.inf
        #: Seconds between acceptance and confirm of the oldest event confirmed last.
        self.latency_s: float | None = None

        self._options = options
        self._tell = tell
        self._now = now
        self._moves: Moves | None = None
        self._queries = Queries(options.name)
        self._flush_before = 0
        self._announced_seq = 0
        self._idle_since = now()
        self._is_close_announced = False
        self._doorway = Doorway(self.lock)

    def move_to(self, spool: Spool) -> None:
        """Have events go there, from now on, that cannot stay in memory."""
        self.spool = spool
        self._moves = Moves(self.held, self.drops, spool, self._tell, self._now)

    # --- the publishers' side

    def accept(self, event: bytes) -> int:
        """
        Take an event and give it its number. The policy decides what happens when there is no room.

        Raises:
            BufferFull: No room, by the policies "raise" and "block"; the event has no number.
            ProducerClosed: After `close`.
        """
        size = len(event)
        held, doorway = self.held, self._doorway
        if doorway.entrant is not None:
            doorway.give_way()
        doorway.entrant = event
        with self.lock:
            # `Held.has_room`, written out: this is the way of nearly every event.
            if held.count < held.max_events and held.size + size <= held.max_bytes and not self.is_closing:
                # The number first: an event published by a signal handler in between then gets the next one.
                seq = self.next_seq
                try:
                    self.next_seq = seq + 1
                    held.hold(seq, event, size, self._now())
                except BaseException:
                    self._account(seq, 1)
                    raise
                if doorway.entrant is event:
                    doorway.entrant = None
                return seq
            doorway.entrant = None
        return self._accept_crowded(event, size)

    def accept_many(self, events: Sequence[bytes]) -> list[int]:
        """Like `accept` for each; under the policy "raise" all of them or none."""
        if self._options.policy != "raise":
            return [self.accept(event) for event in events]
        size = sum(map(len, events))
        while self.held.count and not self.held.has_room(size, len(events)) and self._make_room():
            pass
        with self.lock:
            if not self.held.has_room(size, len(events)):
                raise BufferFull(self._full())
            return [self.accept(event) for event in events]

    def _accept_crowded(self, event: bytes, size: int) -> int:
        while not self.is_closing and self._make_room():
            with self.lock:
                if self.held.has_room(size):
                    return self.accept(event)
        with self.lock:
            if self._options.policy == "block":
                timeout_s = self._options.block_timeout_s
                self.progress.wait_for(lambda: self.is_closing or self.held.has_room(size), timeout_s)
            if self.is_closing:
                raise ProducerClosed("the producer is closed")
            if self._options.policy in ("block", "raise") and not self.held.has_room(size):
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
            if self.held.has_room(size):
                self.held.hold(seq, event, size, self._now())
            else:
                self.drops.add(seq, BUFFER_FULL)
                dropped += 1
                self.work.notify()
        except BaseException:
            self._account(seq, 1)
            raise
        return seq, dropped

    def _full(self) -> str:
        return f"{self.held.count} events ({self.held.size} bytes) wait for the broker"

    def _drop_oldest(self, size: int) -> int:
        """Make room. What is in flight cannot be taken back: without pending events there may be none."""
        held = self.held
        dropped = 0
        while held.pending and not held.has_room(size):
            self.drops.add(held.pending[0][0], BUFFER_FULL)
            held.discard_oldest()
            dropped += 1
        held.look_for_oldest()
        return dropped

    def _account(self, first: int, count: int) -> None:
        """
        Have each of these numbers, if it was given at all, be held or dropped: else the ledger misses it for ever.

        After an exception that came from outside: of a signal handler, or no memory.
        """
        held = set(self.held.unsent_seqs())
        for seq in range(first, min(first + count, self.next_seq)):
            if seq not in held and seq not in self.drops.seqs:
                self.drops.add(seq, INTERRUPTED)
        self.held.restore()

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
                lambda: self.held.count == 0 and (self.spool is None or not self.spool.stocks.has_unsent), timeout_s
            )

    def first_held(self) -> float:
        """The lowest number that is in memory and not confirmed; infinity when there is none."""
        with self.lock:
            return self.held.first()

    def first_unconfirmed(self) -> float:
        """The same, of the spool as well."""
        return min(self.first_held(), math.inf if self.spool is None else self.spool.stocks.first_unsent)

    def wake(self) -> None:
        """There is something to send, or somebody may have waited for what just happened."""
        with self.lock:
            self.held.wake()

    def answer_to(self, address: str | None) -> int:
        """From now on have events answered there. The number of the first that will be, of those that are still to be cut."""
        with self.lock:
            self.reply_to = address
            return self.held.pending[0][0] if self.held.pending else self.next_seq

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
        """Ask, ahead of all that waits, what became of numbers of an epoch; the answer goes to `reply_to`."""
        with self.lock:
            self._queries.add(epoch, ranges, self.reply_to)
            self.work.notify()

    def begin_close(self, timeout_s: float = 0.0) -> None:
        """
        From now on nothing is accepted; the sender sends the rest, says that it was the last, and ends.

        Args:
            timeout_s: How long failed attempts are repeated soon.
        """
        with self.lock:
            self.urgency += 1
            self.urgent_until = max(self.urgent_until, self._now() + timeout_s)
            self.is_closing = True
            self.held.wake()

    def abandon(self) -> int:
        """Give up what is still held, but for what is being written to disk, and say how many events that were."""
        with self.lock:
            abandoned = self.held.count - sum(len(move.events) for move in self.held.moving)
            if abandoned:
                self.drops.totals[CLOSE_DEADLINE] += abandoned
            self._forget_all()
        if abandoned:
            self._tell(abandoned, CLOSE_DEADLINE)
        return abandoned

    def _forget_all(self) -> None:
        self.is_closing = True
        for envelope in self.held.in_flight:
            self.drops.put_back(envelope.dropped)
        self.held.abandon()

    # --- on the way to the spool

    def lose(self, ranges: Sequence[SeqRange]) -> None:
        """The spool cannot read these any more: they count as dropped."""
        count = 0
        with self.lock:
            for first, last in ranges:
                for seq in range(first, last + 1):
                    self.drops.add(seq, SPOOL_CORRUPT)
                count += last - first + 1
            self.held.wake()
        self._tell(count, SPOOL_CORRUPT)

    def tell_drops_again(self) -> None:
        """The broker has lost events of this epoch, and perhaps what was told of those that were dropped."""
        with self.lock:
            self.drops.tell_again()
            self.held.wake()

    def all_drops(self) -> list[DroppedRange]:
        """Dropped numbers, told or not: for who adopts what is left, and may find that the broker has lost all of it."""
        with self.lock:
            self.drops.tell_again()
            return self.drops.take()

    def stalled_at(self) -> float:
        """Since when the broker has confirmed nothing although there was something to confirm; infinity for not at all."""
        return max(self.held.oldest_at, self._idle_since)

    @property
    def is_entered(self) -> bool:
        """Whether this thread is in the middle of something here: a signal handler has interrupted it."""
        return is_owned(self.lock) or (self._moves is not None and self._moves.is_mine)

    def move_to_spool(self) -> bool:
        """See `Moves.move`."""
        return self._moves is not None and bool(self._moves.move())

    def await_moves(self, timeout_s: float) -> bool:
        """See `Moves.await_all`."""
        return self._moves is None or self._moves.await_all(timeout_s)

    def _make_room(self) -> bool:
        return self._moves is not None and self._moves.make_room()

    # --- the sender's side

    def cut(self, limit: int, limit_bytes: int) -> list[Envelope]:
        """
        Wait until something is due, then put it in flight.

        Returns:
            What is in flight: up to `limit` envelopes, and no more of them once they hold `limit_bytes`. First what an earlier
            sender left there. None at all when the buffer is closed and empty.
        """
        held = self.held
        with self.lock:
            while not held.in_flight and not held.is_abandoned and (due_in_s := self.due_in_s()) > 0:
                self.work.wait(None if math.isinf(due_in_s) else due_in_s)
            if held.in_flight or held.is_abandoned:
                return list(held.in_flight)
            size = self._cut_first()
        # The lock is given back between envelopes, so that publish() never waits for more than one being cut.
        while len(held.in_flight) < limit and size < limit_bytes:
            with self.lock:
                if not held.pending or not (held.is_batch_full() or self._is_forced()):
                    break
                size += held.cut(self.epoch, (), self.reply_to)
        return list(held.in_flight)

    def _is_forced(self) -> bool:
        return self.is_closing or (bool(self.held.pending) and self.held.pending[0][0] < self._flush_before)

    def due_in_s(self) -> float:
        """Seconds until the sender has something to do: 0 for now, infinity for not before something happens."""
        # Forced or not, events that are moving are waited for: before that is over there is no end to be told.
        is_moving = bool(self.held.moving) and not self.held.pending
        spool_in_s = math.inf if self.spool is None else self.spool.due_in_s()
        if self._queries or self.held.is_batch_full() or spool_in_s <= 0 or (self._is_forced() and not is_moving):
            return 0
        return min(spool_in_s, math.inf if is_moving else max(0, self._due_at() - self._now()))

    def _due_at(self) -> float:
        if self.held.pending:
            return self.held.pending[0][2] + self._options.linger_s
        if self.drops:
            return self._idle_since + self._options.linger_s
        return self._idle_since + self._options.heartbeat_s if self.next_seq != self._announced_seq else math.inf

    def _is_spool_due(self) -> bool:
        return self.spool is not None and self.spool.due_in_s() <= 0

    def _cut_first(self) -> int:
        if self._queries:
            self.held.in_flight.append(self._queries.pop())
            return 0
        dropped = self.drops.take(RANGES_PER_ENVELOPE) if self.drops else ()
        if self.held.pending:
            return self.held.cut(self.epoch, dropped, self.reply_to)
        has_spooled = self.spool is not None and not math.isinf(self.spool.stocks.first_unsent)
        if self.is_closing and (self._is_close_announced or self.next_seq == 0):
            return 0
        if not dropped and (has_spooled if self.is_closing else self._is_spool_due()):
            return 0  # it is the spool that is due
        self._announced_seq = self.next_seq
        self._is_close_announced = self.is_closing and not self.drops and not has_spooled
        name = self._options.name
        self.held.in_flight.append(Envelope(name, self.epoch, self.next_seq, (), dropped, is_closed=self._is_close_announced))
        return 0

    def confirm(self, envelope: Envelope) -> None:
        """The broker has it."""
        now = self._now()
        with self.lock:
            is_held = self.held.is_in_flight(envelope)
            if is_held:
                accepted_at = self.held.take_out(envelope)
                if accepted_at is not None:
                    self.latency_s = now - accepted_at
                self.confirmed += len(envelope.events)
                self._idle_since = now
                self.held.look_for_oldest()
                self.held.release(len(envelope.events), sum(map(len, envelope.events)))
        if self.spool is None or (is_held and not (self.spool.is_journal and envelope.events)):
            return  # nothing of it is on disk; or abandoned meanwhile, and counted as dropped
        oldest_at = self.spool.stocks.oldest_at
        spooled = self.spool.confirm(envelope)
        with self.lock:
            self.confirmed += spooled
            self._idle_since = now
            if spooled and not is_held and not math.isinf(oldest_at):
                self.latency_s = now - oldest_at
            self.progress.notify_all()

    def refuse(self, envelope: Envelope) -> None:
        """
        The broker takes no message of that size: its events are sent in smaller ones from now on.

        One that was alone in it is dropped, for it would hold up for ever what is behind it.
        """
        size = sum(map(len, envelope.events))
        with self.lock:
            if self.held.is_abandoned:
                return  # counted as dropped, or on disk for the next producer
            is_held = self.held.is_in_flight(envelope)
            if is_held:
                self.drops.put_back(envelope.dropped)
            is_alone = len(envelope.events) == 1
            if not is_alone:
                self.held.batch_bytes = min(self.held.batch_bytes, max(1, size // 2))
            # What is being copied to disk cannot be dropped from there yet: it is tried once more.
            if not is_alone or self.held.copy_of(envelope) is not None:
                if is_held:
                    self.held.put_back(envelope)
                return
            if is_held:
                self.held.take_out(envelope)
                self.held.release(1, size)
                self.held.look_for_oldest()
            if envelope.epoch == self.epoch:
                self.drops.add(envelope.seq, TOO_LARGE)
            else:
                self.drops.totals[TOO_LARGE] += 1
        if self.spool is not None:
            self.spool.drop(envelope.epoch, envelope.seq, TOO_LARGE)
        self.wake()
        self._tell(1, TOO_LARGE)

    @property
    def is_urgent(self) -> bool:
        return self._now() < self.urgent_until

    def wait_to_retry(self, delay_s: float, urgency: int) -> None:
        """Wait before the next attempt, unless it became urgent since the failed one began."""
        with self.lock:
            self.work.wait_for(lambda: self.held.is_abandoned or self.urgency != urgency, delay_s)
