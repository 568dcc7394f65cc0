"""
What a producer is in ONE process: an epoch, a buffer, a sender. A fork gets another one and leaves its parent's alone.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from penstock_producers import processes
from penstock_producers.answers import Answers
from penstock_producers.breaker import Breaker
from penstock_producers.buffer import Buffer
from penstock_producers.drops import WARNING_EVERY_S
from penstock_producers.options import Durability, Options
from penstock_producers.sender import Sender
from penstock_producers.spool.adopter import Adopter
from penstock_producers.spool.journal import JournalBuffer
from penstock_producers.spool.keeper import Keeper
from penstock_producers.spool.receipts import Receipts
from penstock_producers.spool.spool import Spool
from penstock_producers.status import Status
from penstock_producers.transports import Broker
from penstock_schemas.wire import new_epoch

__all__ = ["Outbox"]

logger = logging.getLogger("penstock.producer")

#: Seconds that closing waits for receipts of the journal at most; without them the next producer asks.
_RECEIPTS_S = 1.0
#: Seconds over its deadline that closing waits for events that other threads are writing to disk.
_MOVES_S = 1.0
#: Seconds between two looks whether they have come.
_LOOK_S = 0.05


_BUFFERS: dict[Durability, type[Buffer]] = {"spill": Buffer, "journal": JournalBuffer, "memory": Buffer}


class Outbox:
    """Creating one connects nowhere and starts nothing; the first event does."""

    def __init__(self, options: Options, broker: Broker, address: str) -> None:
        self.options = options
        self.broker = broker
        self.address = address
        self.epoch = new_epoch()
        self.buffer = _BUFFERS[options.durability](options, self.epoch, self._tell_dropped)
        self.breaker = Breaker(options.retry_min_s, options.retry_max_s)
        self.sender = Sender(
            options,
            self.buffer,
            broker.transport,
            self.breaker,
            on_end=self._end,
            on_failure=self._after_failure,
            on_cut=self._watch,
        )
        self.answers = Answers(options, self.buffer, broker.mailbox, self._supervise)
        self.spool: Spool | None = None
        self.keeper: Keeper | None = None
        self.adopter: Adopter | None = None
        self.receipts: Receipts | None = None
        if options.durability != "memory":
            self._add_spool()
        self._is_finishing = False
        self._left_until = math.inf
        self._next_drop_warning = 0.0
        self._next_late_alarm = 0.0

    def _add_spool(self) -> None:
        buffer = self.buffer
        spool = Spool(
            self.options,
            self.epoch,
            self.address,
            wake=buffer.wake,
            lose=buffer.lose,
            publishers=buffer.lock if self.options.durability == "journal" else None,
        )
        self.spool = spool
        buffer.move_to(spool)
        self.adopter = Adopter(self.options, spool.folder, spool.stocks, self._meet_adopted)
        self.receipts = Receipts(
            spool.stocks, self.options.name, first_held=buffer.first_held, on_lost=buffer.tell_drops_again, wake=buffer.wake
        )
        self.keeper = Keeper(self.options, buffer, spool, self.adopter, is_away=self._is_away, on_turn=self._listen)

    @property
    def may_wait(self) -> bool:
        """Whether accepting may wait for room or for the disk."""
        return self.options.policy == "block" or self.options.durability == "journal" or self.buffer.held.is_full

    def accept(self, event: bytes) -> int:
        """See `Buffer.accept`."""
        if not self.sender.is_running and self.options.policy == "block":
            self._supervise()  # first: who waits for room waits for the sender
        seq = self.buffer.accept(event)
        if not self.sender.is_running or time.monotonic() > self.buffer.held.late_at:
            self._supervise()
        return seq

    def accept_many(self, events: Sequence[bytes]) -> list[int]:
        """See `Buffer.accept_many`."""
        # Started first: under the policy "block" the room for the later events comes from sending the earlier ones.
        self._supervise()
        return self.buffer.accept_many(events)

    def flush(self, timeout_s: float) -> bool:
        """See `Buffer.flush`."""
        if self._has_unconfirmed():
            self._supervise()
        return self.buffer.flush(timeout_s)

    def sync(self, timeout_s: float) -> bool:
        """See `Buffer.sync`; files that nobody owns are adopted first."""
        deadline = time.monotonic() + timeout_s
        is_adopted = True
        if self.adopter is not None:
            self.adopter.adopt()
            is_adopted = self.adopter.await_idle(timeout_s)
            self._listen()
        if self._has_unconfirmed():
            self._supervise()
        return self.buffer.sync(max(0.0, deadline - time.monotonic())) and is_adopted

    def await_receipts(self, timeout_s: float) -> bool:
        """Wait until the journals, adopted ones too, are empty; whether they are."""
        deadline = time.monotonic() + timeout_s
        with self.buffer.lock:
            while self.spool is not None and self.spool.stocks.has_journal:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return False
                # Receipts do not wake who waits here: they come by the hundred thousand, and this is asked at the very end.
                self.buffer.progress.wait(min(left_s, _LOOK_S))
        return True

    def begin_close(self, timeout_s: float | None = None) -> None:
        """See `Buffer.begin_close`; None takes `exit_deadline_s`."""
        self.buffer.begin_close(self.options.exit_deadline_s if timeout_s is None else timeout_s)
        self.answers.look()

    def leave(self) -> None:
        """Nobody holds the producer any more: close without anybody who waits for it."""
        self._left_until = time.monotonic() + self.options.exit_deadline_s
        self.begin_close()

    def _end_if_left(self) -> None:
        """
        After its deadline a producer that was left does not try for ever: what is on disk is for the next one of the folder.

        What no disk takes stays here, and is tried less and less often, until the process ends.
        """
        if time.monotonic() < self._left_until or self.keeper is None or self._is_finishing:
            return
        self.keeper.spill_all()
        if self.buffer.held.count == 0 or self.options.durability == "journal":
            self.finish_close(0)

    def finish_close(self, timeout_s: float) -> bool:
        """
        Wait for the sender's end; what it could not send in time goes to the spool, or is given up. Whether it sent all.

        In a signal handler that has interrupted its own thread inside here nothing can be waited for, and what is half done
        cannot be given back: then the sender sends what it can, and the exit hook does the rest.
        """
        if self.buffer.is_entered or (self.spool is not None and self.spool.is_entered):
            processes.close_at_exit(self)
            return False
        deadline = time.monotonic() + timeout_s
        self._is_finishing = True
        if self.buffer.next_seq or self._has_unconfirmed():
            self.sender.start()
            if self.sender.is_running:
                self.sender.is_done.wait(timeout_s)
            else:
                self.sender.run(deadline)
        if self.keeper is not None:
            self.keeper.stop()
            self.keeper.spill_all()
            # What others are moving is theirs until they have done; what their disk refused is moved here.
            if not self.buffer.await_moves(max(0.0, deadline - time.monotonic()) + _MOVES_S):
                logger.warning("%s: the disk has not answered in time, it may still take the rest", self.options.name)
            self.keeper.spill_all()
        is_confirmed = math.isinf(self.buffer.first_unconfirmed())
        if is_confirmed:
            self.await_receipts(min(_RECEIPTS_S, deadline - time.monotonic()))
        is_moving = not self.buffer.await_moves(0)
        is_whole = self.buffer.abandon() == 0 and not is_moving
        self._release(is_whole=is_whole)
        return is_confirmed

    def _release(self, *, is_whole: bool) -> None:
        """
        Give the files back: from now on who comes next may adopt them.

        Args:
            is_whole: What was not sent is on disk or counted as dropped; nothing is in memory, and nothing is being moved.
        """
        if self.keeper is not None:
            self.keeper.stop()
        # The keeper's last turn, and the adopter's, would listen again: for ever, for nothing would end it.
        self.answers.end()
        if self.spool is not None:
            if is_whole:
                self.spool.close(self.buffer.next_seq, self.buffer.all_drops())
            else:
                self.spool.close()

    def _end(self) -> None:
        """The sender's last act. A producer that nobody holds any more has nobody else to give its files back."""
        processes.forget(self)
        if self.sender.is_done.is_set() and not self._is_finishing:
            self._release(is_whole=self.buffer.held.count == 0)

    def leave_to_parent(self) -> None:
        """In a forked child: the events are the parent's, and so are the sockets. Any lock may be held for ever."""
        self.answers.leave_to_parent()
        transport = self.sender.transport
        if transport is not None:
            with suppress(Exception):
                transport.forget()

    def status(self) -> Status:
        """One consistent look."""
        buffer, sender, spool = self.buffer, self.sender, self.spool
        with buffer.lock:
            spooled = 0 if spool is None else spool.stocks.unsent
            oldest_at = self._oldest_at()
            age_s = 0.0 if math.isinf(oldest_at) else max(0.0, time.monotonic() - oldest_at)
            return Status(
                name=self.options.name,
                epoch=self.epoch,
                accepted=buffer.next_seq,
                confirmed=buffer.confirmed,
                dropped=dict(buffer.drops.totals),
                pending_writes=buffer.held.count + spooled,
                pending_bytes=buffer.held.size,
                spooled=spooled,
                unreceipted=0 if spool is None else spool.stocks.unreceipted,
                adopted=0 if spool is None else spool.stocks.adopted_events,
                adopting=frozenset() if self.adopter is None else frozenset(self.adopter.reading),
                oldest_age_s=age_s,
                is_late=age_s > self.options.late_after_s,
                is_sending=sender.is_running,
                is_closed=buffer.is_closing,
                breaker=self.breaker.state,
                failures=self.breaker.failures,
                last_error=sender.last_error,
                last_sync_time=sender.last_sync_time,
                next_sync_time=self._next_sync_time(),
                sync_latency_s=buffer.latency_s,
            )

    def _next_sync_time(self) -> datetime | None:
        if not self._has_unconfirmed() or not self.sender.is_running:
            return None
        retry_at = self.breaker.retry_at
        due_in_s = self.buffer.due_in_s() if retry_at is None else retry_at - time.monotonic()
        return datetime.now(UTC) + timedelta(seconds=0.0 if math.isinf(due_in_s) else max(0.0, due_in_s))

    def _has_unconfirmed(self) -> bool:
        return bool(self.buffer.held.count) or (self.spool is not None and self.spool.stocks.has_unsent)

    def _oldest_at(self) -> float:
        """When the oldest event that is not confirmed was accepted; infinity when there is none."""
        return min(self.buffer.held.oldest_at, math.inf if self.spool is None else self.spool.stocks.oldest_at)

    def _is_away(self) -> bool:
        return self.breaker.is_tripped

    def _watch(self) -> None:
        if self.keeper is not None:
            self.keeper.watch()

    def _listen(self) -> None:
        """For receipts, while there is a journal; of its own accord nobody starts that thread again."""
        if self.spool is not None:
            self.answers.watch(self.receipts if self.spool.is_journal or self.spool.stocks.has_journal else None)

    def _meet_adopted(self) -> None:
        self._listen()
        self.buffer.wake()

    def _supervise(self) -> None:
        if not self.sender.is_running:
            processes.close_at_exit(self)
            # Not in a handler that has interrupted its own thread under the buffer's lock: then the keeper's next turn does it.
            if self.options.durability == "journal" and not self.buffer.is_entered:
                self._listen()  # first, so that the first message has an address already
            self.sender.start()
        self._tell_late()

    def _after_failure(self) -> None:
        self._tell_late()
        self._end_if_left()

    def _tell_late(self) -> None:
        """The alarm is on the age of the oldest event: a thread may be alive and do nothing."""
        now = time.monotonic()
        oldest_at = self._oldest_at()
        if now <= oldest_at + self.options.late_after_s or now < self._next_late_alarm:
            return
        self._next_late_alarm = self.buffer.held.late_at = now + self.options.late_after_s
        events = self.buffer.held.count + (0 if self.spool is None else self.spool.stocks.unsent)
        logger.error(
            "%s: %d events wait for the broker, the oldest for %.0f s (last error: %s)",
            self.options.name,
            events,
            now - oldest_at,
            self.sender.last_error,
            extra={"action": "events_late", "events": events},
        )

    def _tell_dropped(self, count: int, reason: str) -> None:
        self.answers.look()
        now = time.monotonic()
        if now >= self._next_drop_warning:
            self._next_drop_warning = now + WARNING_EVERY_S
            total = self.buffer.drops.totals[reason]
            logger.warning(
                "%s dropped %d events so far (%s)", self.options.name, total, reason, extra={"action": "events_dropped"}
            )
        if self.options.on_drop is None:
            return
        try:
            self.options.on_drop(count, reason)
        except Exception:
            logger.exception("on_drop of %s failed", self.options.name)
