"""
The background thread of a producer: takes what is due from the buffer and hands it to the transport until it is confirmed.

It has one job per turn (`run_once`), keeps nothing of its own between turns, and may die at any point: what was in flight
stays in the buffer, and the next event starts another thread.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from penstock_producers.breaker import Breaker
from penstock_producers.buffer import Buffer
from penstock_producers.drops import WARNING_EVERY_S
from penstock_producers.errors import MessagesTooLarge, TransportError
from penstock_producers.options import Options
from penstock_producers.threads import start_thread
from penstock_producers.transports import Transport
from penstock_schemas.wire import Envelope

__all__ = ["Sender"]

logger = logging.getLogger("penstock.producer")

#: Envelopes and bytes of one turn: enough for pipelined confirms, and a bound for what is encoded at one time.
_ENVELOPES_PER_TURN = 32
_BYTES_PER_TURN = 4 * 1024 * 1024
#: Envelopes of one turn that come from the spool: it catches up while what is published now does not wait for it.
_SPOOLED_PER_TURN = 16
#: What is risked of the spool on an attempt while the broker is away.
_PROBE_EVENTS = 20
_PROBE_BYTES = 64 * 1024


class Sender:
    """
    One thread at a time, each with a transport of its own.

    Args:
        connect: Gives a transport; called by the thread, so that nothing of it exists before.
        breaker: Says how long to wait after a failure, and how much is risked on the next attempt.
        on_end: Called by the thread as its last act.
        on_failure: Called after each failed attempt.
        on_cut: Called before each attempt: events are in flight.
    """

    def __init__(
        self,
        options: Options,
        buffer: Buffer,
        connect: Callable[[], Transport],
        breaker: Breaker,
        *,
        on_end: Callable[[], None],
        on_failure: Callable[[], None],
        on_cut: Callable[[], None],
    ) -> None:
        self.is_running = False
        self.is_done = threading.Event()
        self.breaker = breaker
        self.last_error: str | None = None
        self.last_sync_time: datetime | None = None
        self._options = options
        self._buffer = buffer
        self.transport: Transport | None = None
        self._connect = connect
        self._on_end = on_end
        self._on_failure = on_failure
        self._on_cut = on_cut
        #: Envelopes of this turn that are not confirmed.
        self._unconfirmed: set[int] = set()
        #: Until then no further message that is too large is told of: of one event, and of several.
        self._silent_until = {True: -math.inf, False: -math.inf}
        # Reentrant, like the buffer's.
        self._start_lock = threading.RLock()

    def start(self) -> None:
        """Start the thread unless it runs. Where no thread can be started, as at the very end of a process, nothing happens."""
        with self._start_lock:
            if self.is_running or self.is_done.is_set():
                return
            self.is_running = True
            try:
                start_thread(self.run, f"penstock-{self._options.name}", self._set_ended)
            except RuntimeError as exc:
                logger.warning("the sender of %s cannot be started: %s", self._options.name, exc)

    def _set_ended(self) -> None:
        self.is_running = False

    def run(self, deadline: float = math.inf) -> None:
        """Turn until the buffer is closed and empty, or `deadline` (of time.monotonic) is over."""
        try:
            while time.monotonic() < deadline and self.run_once():
                pass
            self.is_done.set()
        except BaseException:
            # Errors are caught in the turn; this is SystemExit and its like. The events stay.
            logger.exception("the sender of %s ended, the next event starts another one", self._options.name)
        finally:
            self._close_transport()
            self.is_running = False
            self._on_end()

    def run_once(self) -> bool:
        """One turn: wait for something due and try once to deliver it. False when there will be nothing any more."""
        urgency = self._buffer.urgency
        try:
            envelopes = self._cut()
            if not envelopes:
                return not (self._buffer.is_closing or self._buffer.held.is_abandoned)
            self.breaker.begin()
            self._on_cut()
            self._deliver(envelopes)
        except MessagesTooLarge as exc:
            self._shrink(exc, urgency)
        except Exception as exc:  # noqa: BLE001  # also an error of ours must not end the thread silently
            self._fail(exc, urgency)
        finally:
            if self._buffer.spool is not None:
                self._buffer.spool.stocks.sweep()
                self._buffer.spool.tell()
        return True

    def _cut(self) -> list[Envelope]:
        """Of memory and spool alike. While the broker is away one envelope is risked, not a large one if it can be helped."""
        spool, options = self._buffer.spool, self._options
        limit = 1 if self.breaker.is_tripped else _ENVELOPES_PER_TURN
        envelopes = self._buffer.cut(limit, _BYTES_PER_TURN)[:limit]
        if spool is None or not spool.stocks.has_unsent or (envelopes and limit == 1):
            return envelopes
        limit = min(limit, _SPOOLED_PER_TURN)
        events, size = options.batch_events, self._buffer.held.batch_bytes
        if limit == 1:
            events, size = min(events, _PROBE_EVENTS), min(size, _PROBE_BYTES)
        return envelopes + spool.take(limit, events, size, self._buffer.reply_to)

    def _deliver(self, envelopes: list[Envelope]) -> None:
        self._unconfirmed = set(map(id, envelopes))
        if self.transport is None:
            self.transport = self._connect()
        self.transport.send(envelopes, self._confirm)
        if self._unconfirmed:
            raise TransportError("the transport returned before all was confirmed")

    def _confirm(self, envelope: Envelope) -> None:
        self._unconfirmed.discard(id(envelope))
        self._buffer.confirm(envelope)
        self.last_sync_time = datetime.now(UTC)
        if self.breaker.failures:
            logger.info("the broker of %s answers again after %d failures", self._options.name, self.breaker.failures)
        self.breaker.succeed()
        self.last_error = None

    def _shrink(self, exc: MessagesTooLarge, urgency: int) -> None:
        """Each time something is smaller or gone, so this ends; without events there is nothing to make smaller."""
        refused = [envelope for envelope in exc.envelopes if envelope.events]
        if not refused:
            self._fail(exc, urgency)
        for envelope in reversed(refused):  # what is put back goes before what was put back
            self._tell_too_large(envelope, exc)
            self._buffer.refuse(envelope)

    def _tell_too_large(self, envelope: Envelope, exc: MessagesTooLarge) -> None:
        is_alone = len(envelope.events) == 1
        now = time.monotonic()
        if now < self._silent_until[is_alone]:
            return
        self._silent_until[is_alone] = now + WARNING_EVERY_S
        logger.error(
            "%s: the broker takes no message of %d bytes, %s: %s",
            self._options.name,
            sum(map(len, envelope.events)),
            f"event {envelope.seq} of {envelope.epoch} is dropped" if is_alone else "smaller ones are sent",
            exc,
            extra={"action": "message_too_large"},
        )

    def _fail(self, exc: Exception, urgency: int) -> None:
        self.last_error = str(exc) or type(exc).__name__
        delay_s = self.breaker.fail(time.monotonic(), is_urgent=self._buffer.is_urgent)
        if self.breaker.failures == 1:
            logger.warning(
                "%s: not delivered, the events stay and it is tried again: %s",
                self._options.name,
                self.last_error,
                exc_info=None if isinstance(exc, TransportError) else exc,
                extra={"action": "send_failed"},
            )
        self._on_failure()
        self._buffer.wait_to_retry(delay_s, urgency)

    def _close_transport(self) -> None:
        transport, self.transport = self.transport, None
        try:
            if transport is not None:
                transport.close()
        except Exception as exc:  # noqa: BLE001  # nothing depends on a clean goodbye
            logger.debug("closing the transport of %s: %s", self._options.name, exc)
