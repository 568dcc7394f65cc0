"""
What a producer is in ONE process: an epoch, a buffer, a sender. A fork gets another one and leaves its parent's alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress

from penstock_producers import processes
from penstock_producers.answers import Answers
from penstock_producers.buffer import Buffer
from penstock_producers.options import Options
from penstock_producers.sender import Sender
from penstock_producers.status import Status
from penstock_producers.transports import Broker
from penstock_schemas.wire import new_epoch

__all__ = ["Outbox"]

logger = logging.getLogger("penstock.producer")

#: Drops come in crowds: one line of log in this many seconds tells of them all.
_DROP_WARNING_EVERY_S = 10


class Outbox:
    """Creating one connects nowhere and starts nothing; the first event does."""

    def __init__(self, options: Options, broker: Broker) -> None:
        self.options = options
        self.broker = broker
        self.epoch = new_epoch()
        self.buffer = Buffer(options, self.epoch, self._tell_dropped)
        self.sender = Sender(options, self.buffer, broker.transport, on_end=self._stop_watching, on_failure=self._tell_late)
        self.answers = Answers(options, self.buffer, broker.mailbox, self._supervise)
        self._next_drop_warning = 0.0

    def accept(self, event: bytes) -> int:
        """See `Buffer.accept`."""
        if not self.sender.is_running and self.options.policy == "block":
            self._supervise()  # first: who waits for room waits for the sender
        seq = self.buffer.accept(event)
        if not self.sender.is_running or time.monotonic() > self.buffer.late_at:
            self._supervise()
        return seq

    def accept_many(self, events: Sequence[bytes]) -> list[int]:
        """See `Buffer.accept_many`."""
        # Started first: under the policy "block" the room for the later events comes from sending the earlier ones.
        self._supervise()
        return self.buffer.accept_many(events)

    def flush(self, timeout_s: float) -> bool:
        """See `Buffer.flush`."""
        if self.buffer.held_events:
            self._supervise()
        return self.buffer.flush(timeout_s)

    def begin_close(self) -> None:
        """See `Buffer.begin_close`."""
        self.buffer.begin_close()
        self.answers.look()

    def finish_close(self, timeout_s: float) -> bool:
        """Wait until the sender has ended; give up what it could not send in time. Whether there was nothing to give up."""
        deadline = time.monotonic() + timeout_s
        if self.buffer.next_seq == 0:
            return True
        self.sender.start()
        if self.sender.is_running:
            self.sender.is_done.wait(timeout_s)
        else:
            self.sender.run(deadline)
        return self.buffer.abandon() == 0

    def leave_to_parent(self) -> None:
        """In a forked child: the events are the parent's, and so are the sockets. Any lock may be held for ever."""
        self.answers.leave_to_parent()
        transport = self.sender.transport
        if transport is not None:
            with suppress(Exception):
                transport.forget()

    def status(self) -> Status:
        """One consistent look."""
        buffer, sender = self.buffer, self.sender
        with buffer.lock:
            age_s = max(0.0, time.monotonic() - buffer.oldest_at) if buffer.held_events else 0.0
            return Status(
                name=self.options.name,
                epoch=self.epoch,
                accepted=buffer.next_seq,
                confirmed=buffer.confirmed,
                dropped=dict(buffer.drops.totals),
                pending_events=buffer.held_events,
                pending_bytes=buffer.held_bytes,
                oldest_age_s=age_s,
                is_late=age_s > self.options.late_after_s,
                is_sending=sender.is_running,
                is_closed=buffer.is_closing,
                failures=sender.failures,
                last_error=sender.last_error,
                last_confirmed_at=sender.last_confirmed_at,
            )

    def _supervise(self) -> None:
        if not self.sender.is_running:
            processes.close_at_exit(self)
            self.sender.start()
        self._tell_late()

    def _stop_watching(self) -> None:
        processes.forget(self)

    def _tell_late(self) -> None:
        """The alarm is on the age of the oldest event: a thread may be alive and do nothing."""
        now = time.monotonic()
        if now <= self.buffer.late_at:
            return
        self.buffer.late_at = now + self.options.late_after_s
        logger.error(
            "%s: %d events wait for the broker, the oldest for %.0f s (last error: %s)",
            self.options.name,
            self.buffer.held_events,
            now - self.buffer.oldest_at,
            self.sender.last_error,
            extra={"action": "events_late", "events": self.buffer.held_events},
        )

    def _tell_dropped(self, count: int, reason: str) -> None:
        self.answers.look()
        now = time.monotonic()
        if now >= self._next_drop_warning:
            self._next_drop_warning = now + _DROP_WARNING_EVERY_S
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
