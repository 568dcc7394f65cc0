"""
The background thread of a producer: takes what is due from the buffer and hands it to the transport until it is confirmed.

It has one job per turn (`run_once`), keeps nothing of its own between turns, and may die at any point: what was in flight
stays in the buffer, and the next event starts another thread.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from penstock_producers.buffer import Buffer
from penstock_producers.errors import TransportError
from penstock_producers.options import Options
from penstock_producers.transports import Transport
from penstock_schemas.wire import Envelope

__all__ = ["Sender"]

logger = logging.getLogger("penstock.producer")

#: Envelopes and bytes of one turn: enough for pipelined confirms, and a bound for what is encoded at one time.
_ENVELOPES_PER_TURN = 32
_BYTES_PER_TURN = 4 * 1024 * 1024


class Sender:
    """
    One thread at a time, each with a transport of its own.

    Args:
        connect: Gives a transport; called by the thread, so that nothing of it exists before.
        on_end: Called by the thread as its last act.
        on_failure: Called after each failed attempt.
        jitter: A number between 0 and 1, anew at each call.
    """

    def __init__(
        self,
        options: Options,
        buffer: Buffer,
        connect: Callable[[], Transport],
        *,
        on_end: Callable[[], None],
        on_failure: Callable[[], None],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.is_running = False
        self.is_done = threading.Event()
        self.failures = 0
        self.last_error: str | None = None
        self.last_confirmed_at: datetime | None = None
        self._options = options
        self._buffer = buffer
        self.transport: Transport | None = None
        self._connect = connect
        self._on_end = on_end
        self._on_failure = on_failure
        self._jitter = jitter
        # Reentrant, like the buffer's.
        self._start_lock = threading.RLock()

    def start(self) -> None:
        """Start the thread unless it runs. Where no thread can be started, as at the very end of a process, nothing happens."""
        with self._start_lock:
            if self.is_running or self.is_done.is_set():
                return
            self.is_running = True
            try:
                threading.Thread(target=self.run, name=f"penstock-{self._options.name}", daemon=True).start()
            except RuntimeError as exc:
                self.is_running = False
                logger.warning("the sender of %s cannot be started: %s", self._options.name, exc)

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
        was_closing = self._buffer.is_closing
        try:
            envelopes = self._buffer.cut(_ENVELOPES_PER_TURN, _BYTES_PER_TURN)
            if not envelopes:
                return False
            if self.transport is None:
                self.transport = self._connect()
            self.transport.send(envelopes, self._confirm)
            if self._buffer.in_flight:
                raise TransportError("the transport returned before all was confirmed")  # noqa: TRY301  # one way of failing
        except Exception as exc:  # noqa: BLE001  # also an error of ours must not end the thread silently
            self._fail(exc, was_closing)
        return True

    def _confirm(self, envelope: Envelope) -> None:
        self._buffer.confirm(envelope)
        self.last_confirmed_at = datetime.now(UTC)
        if self.failures:
            logger.info("the broker of %s answers again after %d failures", self._options.name, self.failures)
        self.failures = 0
        self.last_error = None

    def _fail(self, exc: Exception, was_closing: bool) -> None:
        self.last_error = str(exc) or type(exc).__name__
        self.failures += 1
        if self.failures == 1:
            logger.warning(
                "%s: not delivered, the events stay and it is tried again: %s",
                self._options.name,
                self.last_error,
                exc_info=None if isinstance(exc, TransportError) else exc,
                extra={"action": "send_failed"},
            )
        self._on_failure()
        self._buffer.wait_to_retry(self._delay_s(), was_closing)

    def _delay_s(self) -> float:
        """Twice as long after each failure, and jittered, so that a broker that comes back is not met by all at once."""
        doublings = 0 if self._buffer.is_closing else min(self.failures - 1, 16)
        longest = min(self._options.retry_max_s, self._options.retry_min_s * (1 << doublings))
        return longest * (0.5 + self._jitter() / 2)

    def _close_transport(self) -> None:
        transport, self.transport = self.transport, None
        try:
            if transport is not None:
                transport.close()
        except Exception as exc:  # noqa: BLE001  # nothing depends on a clean goodbye
            logger.debug("closing the transport of %s: %s", self._options.name, exc)
