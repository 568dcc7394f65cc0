"""
What became of events, as the worker tells it: who waits for it here, and the thread that hears answers.

While anybody waits, envelopes carry an address (`Buffer.reply_to`), and their answers come by themselves. What was sent before,
or was not answered, is asked about by a query. `known` remembers what was heard, `asking` asks for those who wait, `listening`
for a listener.

Without waiters there is no thread, no mailbox and no address.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from penstock_producers.asking import Asking, Want
from penstock_producers.buffer import Buffer
from penstock_producers.errors import ProducerClosed, ProducerError, TransportError
from penstock_producers.known import Known
from penstock_producers.listening import Listener, Listening
from penstock_producers.options import Options
from penstock_producers.threads import start_thread
from penstock_producers.transports import Mailbox
from penstock_schemas.answer import PRECEDENCE, UNKNOWN, Answer, SeqRange

__all__ = ["Answers"]

logger = logging.getLogger("penstock.producer")

#: Seconds without anybody who waits, after which the thread ends.
_IDLE_S = 5.0
#: Seconds that the mailbox is read at most, before it is looked what else is to be done.
_READ_S = 1.0
#: Seconds after which a waiter looks whether the thread lives.
_LOOK_S = 1.0

_T = TypeVar("_T")


class Answers:
    """
    What is known of one outbox's events.

    Args:
        open_mailbox: Gives a mailbox, not yet connected; called by the thread.
        supervise: Makes sure that what the buffer is given is sent.
        now: A monotonic clock, in seconds.
        sleep: Waits after a failure, in seconds.
    """

    def __init__(
        self,
        options: Options,
        buffer: Buffer,
        open_mailbox: Callable[[], Mailbox],
        supervise: Callable[[], None],
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._options, self._buffer = options, buffer
        self._open_mailbox, self._supervise = open_mailbox, supervise
        self._now, self._sleep = now, sleep
        self._pid = os.getpid()
        # Reentrant: a signal handler may drop an event, and a finalizer close the producer, while their thread waits here.
        # Taken before the buffer's lock, never after it: where a handler may have that one already, nobody waits for ours.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._is_running = False
        self._idle_since = 0.0
        self._mailbox: Mailbox | None = None
        self._address: str | None = None
        self._known = Known(buffer.has_dropped)
        self._asking = Asking(self._known, lambda ranges: buffer.ask(buffer.epoch, ranges))
        self._listening = Listening(buffer.ask, now)
        self._listener: Listener | None = None
        self._is_ended = False

    # --- the waiters' side

    def wait(self, seq: int, timeout_s: float) -> str:
        """
        Wait until an event has ended.

        Returns:
            One of `PRECEDENCE`, or "timeout".

        Raises:
            ProducerClosed: Its outcome is not known and cannot be asked for any more.
            ProducerError: In a forked child: the event is the parent's.
        """
        return self._await(Want(seq, seq), lambda: self._known.find_outcome(seq), timeout_s) or "timeout"

    def barrier(self, timeout_s: float) -> bool:
        """Wait until everything accepted so far has ended, dropped or otherwise; raises as `wait` does."""
        last = self._buffer.next_seq - 1
        want = Want(self._known.ended_below, last, is_barrier=True)
        return bool(self._await(want, lambda: self._known.has_ended(last), timeout_s))

    def look(self) -> None:
        """
        Something may have ended without an answer: events were dropped, or the producer is closing.

        Does not wait: a signal handler or a finalizer may call it under the buffer's lock, which who has our lock may wait for.
        Those who are not told now look by themselves, every second.
        """
        if self._asking.wants and self._lock.acquire(blocking=False):
            try:
                self._changed.notify_all()
            finally:
                self._lock.release()

    def watch(self, listener: Listener | None) -> None:
        """Tell a listener of every answer from now on; None ends it. After `end` nothing happens."""
        with self._lock:
            if self._is_ended:
                return
            self._listener = listener
            if listener is not None:
                self._start()

    def end(self) -> None:
        """No listener any more, also none that another thread was about to bring: its files were given back."""
        with self._lock:
            self.watch(None)
            self._is_ended = True

    def leave_to_parent(self) -> None:
        """In a forked child: let go of the parent's socket. Any lock may be held for ever."""
        mailbox = self._mailbox
        if mailbox is not None:
            with suppress(Exception):
                mailbox.forget()

    def _await(self, want: Want, look: Callable[[], _T | None], timeout_s: float) -> _T | None:
        if os.getpid() != self._pid:
            raise ProducerError("the event was published by the parent process: wait for it there, a fork starts anew")
        deadline = self._now() + timeout_s
        with self._changed:
            if not (found := look()) and not self._buffer.is_closing:
                self._asking.wants.add(want)
                self._serve(want)
            try:
                while not (found := look()):
                    if self._buffer.is_closing:
                        raise ProducerClosed("the producer is closed, what became of the event cannot be asked any more")
                    left_s = deadline - self._now()
                    if left_s <= 0:
                        return None
                    self._start()
                    self._changed.wait(min(left_s, _LOOK_S))
                return found
            finally:
                self._asking.wants.discard(want)
                self._idle_since = self._now()

    def _serve(self, want: Want) -> None:
        """Have it sent and asked for; without an address the thread does it, once it has one."""
        self._start()
        if self._address is None:
            return
        self._supervise()
        self._buffer.hurry(want.last)
        self._asking.serve(want, self._now())

    def _next_due_s(self) -> float:
        """Seconds until there may be something to ask."""
        with self._lock:
            return max(0.01, min(self._asking.next_due_at() - self._now(), _READ_S))

    # --- the thread's side

    def _start(self) -> None:
        with self._lock:
            if self._is_running:
                return
            self._is_running = True
            self._idle_since = self._now()
            try:
                start_thread(self.run, f"penstock-{self._options.name}-answers", self._set_ended)
            except RuntimeError as exc:  # at the very end of a process
                logger.warning("nobody listens for answers of %s: %s", self._options.name, exc)

    def _set_ended(self) -> None:
        self._is_running = False

    def run(self) -> None:
        """Turn until nobody has waited for a while."""
        failures = 0
        try:
            while not self._is_over():
                try:
                    self.run_once()
                    failures = 0
                except Exception as exc:  # noqa: BLE001  # also an error of ours must not end the thread silently
                    failures += 1
                    self._fail(exc, failures)
        except BaseException:
            # Errors are caught in the turn; this is SystemExit and its like. Whoever waits starts another thread.
            self._stop()
            raise

    def _is_over(self) -> bool:
        with self._lock:
            if self._asking.wants or self._listener is not None:
                return False
            if self._now() - self._idle_since < _IDLE_S and not self._buffer.is_closing:
                return False
            # Here, under the lock: whoever comes to wait from now on starts another thread.
            self._stop()
            return True

    def _stop(self) -> None:
        with self._lock:
            mailbox, self._mailbox = self._mailbox, None
            self._is_running = False
            self._move(None)
        if mailbox is not None:
            with suppress(Exception):  # nothing depends on a clean goodbye
                mailbox.close()

    def run_once(self) -> None:
        """One turn: listen for a while, then see to what was heard and to what is to be asked."""
        if self._mailbox is None:
            self._mailbox = self._open_mailbox()
        mailbox = self._mailbox
        self._move(mailbox.address)
        lines = mailbox.receive(self._next_due_s())
        self._move(mailbox.address)
        for line in lines:
            self._take(line)
        if self._listener is not None and self._address is not None:
            self._listening.ask_for(self._listener)
        with self._changed:
            if self._address is not None:
                self._asking.ask_due(self._now())
            if lines:
                self._changed.notify_all()

    def _fail(self, exc: Exception, failures: int) -> None:
        if failures == 1 and (self._asking.wants or self._listener is not None):
            logger.warning(
                "%s: answers cannot be read, it is tried again: %s",
                self._options.name,
                exc,
                exc_info=None if isinstance(exc, TransportError) else exc,
                extra={"action": "answers_unread"},
            )
        self._move(self._mailbox.address if self._mailbox else None)
        longest_s = min(self._options.retry_max_s, self._options.retry_min_s * (1 << min(failures - 1, 16)))
        self._sleep(longest_s * random.uniform(0.5, 1))  # noqa: S311  # jitter

    def _move(self, address: str | None) -> None:
        """The mailbox is at another address: who waits for an answer at the old one asks."""
        with self._lock:
            if address == self._address:
                return
            self._address = address
            first = self._buffer.answer_to(address)
            self._asking.move(None if address is None else first)
            for want in list(self._asking.wants) if address is not None else ():
                self._serve(want)

    def _take(self, line: bytes) -> None:
        try:
            answer = Answer.parse(line)
        except ValueError as exc:
            logger.info("%s: not an answer: %s", self._options.name, exc, extra={"action": "answer_unreadable"})
            return
        ended = [part for part in answer.outcomes if part[0] in PRECEDENCE and part[1] <= part[2]]
        unknown = [(first, last) for outcome, first, last in answer.outcomes if outcome == UNKNOWN and first <= last]
        if answer.epoch == self._buffer.epoch:
            self._take_own(ended, unknown)
        if self._listener is not None:
            self._listening.tell(self._listener, answer.epoch, ended, unknown)

    def _take_own(self, ended: Sequence[tuple[str, int, int]], unknown: Sequence[SeqRange]) -> None:
        with self._lock:
            self._known.forget_if_many()
            for outcome, first, last in ended:
                self._known.learn(outcome, first, last)
            self._asking.hear([*unknown, *((first, last) for _, first, last in ended)], self._now())
