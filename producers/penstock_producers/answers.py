"""
What became of events, as the worker tells it: who waits for it here, what is known, and when to ask again.

While anybody waits, envelopes carry an address (`Buffer.reply_to`), and their answers come by themselves. What was sent before,
or was not answered, is asked about by a query. Every answer that comes is remembered, also about events that nobody waits for
yet: ranges are small, and the next one to wait is usually about the next event.

Without waiters there is no thread, no mailbox and no address.
"""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar
from uuid import UUID

from penstock_producers.buffer import Buffer
from penstock_producers.errors import ProducerClosed, ProducerError, TransportError
from penstock_producers.options import Options
from penstock_producers.questions import Doubt, Question
from penstock_producers.threads import start_thread
from penstock_producers.transports import Mailbox
from penstock_schemas.answer import MAX_QUERY_RANGES, PRECEDENCE, UNKNOWN, Answer, SeqRange
from penstock_schemas.ranges import Ranges

__all__ = ["Answers", "Listener"]

logger = logging.getLogger("penstock.producer")

#: Seconds that an answer may take which comes by itself, before it is asked for.
_DIRECT_S = 3.0
#: Seconds without anybody who waits, after which the thread ends.
_IDLE_S = 5.0
#: Seconds between two looks at what a listener misses.
_LISTENER_S = 1.0
#: Seconds of the first pause after "unknown"; it doubles, up to the second.
_PAUSE_S = (0.05, 2.0)
#: Seconds that the mailbox is read at most, before it is looked what else is to be done.
_READ_S = 1.0
#: Seconds after which a waiter looks whether the thread lives.
_LOOK_S = 1.0
#: Numbers around a wanted one that are asked about with it: usually those will be wanted next.
_AROUND = 10_000
#: Ranges of outcomes remembered; more, and all are forgotten and asked for again.
_MAX_RANGES = 10_000
#: Above every number of an event.
_NEVER = 1 << 48

_T = TypeVar("_T")


class Listener(Protocol):
    """
    Who wants to hear of every answer, as the journal does. All methods are called by the thread of `Answers` and by no other,
    without a lock held; they must not wait for a broker. What they raise is logged, and the next turn calls them again.
    """

    def overdue(self) -> Mapping[UUID, Sequence[SeqRange]]:
        """
        What to ask about, by epoch, any epoch: numbers that the broker CONFIRMED some seconds ago, or long ago by an earlier
        process, and whose answer has not come. At most a few hundred ranges; the rest at the next call.

        Called every second. One query per epoch is under way at a time, and one that is not answered is asked again later and
        later: a backlog is not multiplied.
        """

    def settled(self, epoch: UUID, outcome: str, first: int, last: int) -> None:
        """These numbers have ended, with one of `PRECEDENCE`; said again and again if the answer comes again and again."""

    def unknown(self, epoch: UUID, first: int, last: int) -> None:
        """
        The ledger has nothing of these numbers, asked about because they were `overdue`: the broker has lost them. Two answers
        in a row have said so, seconds apart, for one batch may overtake another.
        """


@dataclass(slots=True, eq=False)
class _Want:
    """
    Numbers that somebody waits for.

    Args:
        direct_at: When also those are asked about whose answer comes by itself.
        due_at: When they are asked about.
        pause_s: Until they are asked about again, after "unknown".
    """

    first: int
    last: int
    direct_at: float = math.inf
    due_at: float = math.inf
    pause_s: float = _PAUSE_S[0]
    is_asked: bool = False


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
        # Taken before the buffer's lock, never after it.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._is_running = False
        self._idle_since = 0.0
        self._mailbox: Mailbox | None = None
        self._address: str | None = None
        #: Events from here on are cut with the address: their answers come by themselves.
        self._direct_from = _NEVER
        self._wants: set[_Want] = set()
        self._question = Question()
        self._ended = Ranges()
        self._by_outcome: dict[str, Ranges] = {}
        #: Everything below has ended, however; kept when the rest is forgotten.
        self._ended_below = 0
        self._listener: Listener | None = None
        self._doubts: dict[UUID, Doubt] = {}
        self._listener_at = -math.inf

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
        return self._await(_Want(seq, seq), lambda: self._outcome_of(seq), timeout_s) or "timeout"

    def barrier(self, timeout_s: float) -> bool:
        """Wait until everything accepted so far has ended, dropped or otherwise; raises as `wait` does."""
        last = self._buffer.next_seq - 1
        return bool(self._await(_Want(self._ended_below, last), lambda: self._has_ended(last), timeout_s))

    def look(self) -> None:
        """Something may have ended without an answer: events were dropped, or the producer is closing."""
        if self._wants:
            with self._changed:
                self._changed.notify_all()

    def watch(self, listener: Listener | None) -> None:
        """Tell a listener of every answer from now on; None ends it."""
        with self._lock:
            self._listener = listener
            if listener is not None:
                self._start()

    def leave_to_parent(self) -> None:
        """In a forked child: let go of the parent's socket. Any lock may be held for ever."""
        mailbox = self._mailbox
        if mailbox is not None:
            with suppress(Exception):
                mailbox.forget()

    def _await(self, want: _Want, look: Callable[[], _T | None], timeout_s: float) -> _T | None:
        if os.getpid() != self._pid:
            raise ProducerError("the event was published by the parent process: wait for it there, a fork starts anew")
        deadline = self._now() + timeout_s
        with self._changed:
            if not (found := look()) and not self._buffer.is_closing:
                self._wants.add(want)
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
                self._wants.discard(want)
                self._idle_since = self._now()

    def _serve(self, want: _Want) -> None:
        """Have it sent and asked for; without an address the thread does it, once it has one."""
        self._start()
        if self._address is None:
            return
        now = self._now()
        want.due_at, want.direct_at = now, now + _DIRECT_S
        self._supervise()
        self._buffer.hurry(want.last)
        self._ask_due(now)

    # --- what is known

    def _outcome_of(self, seq: int) -> str | None:
        for outcome in PRECEDENCE:
            if outcome in self._by_outcome and seq in self._by_outcome[outcome]:
                return outcome
        return "dropped" if self._buffer.has_dropped(seq, seq) else None

    def _has_ended(self, last: int) -> bool:
        gaps = self._ended.gaps(self._ended_below, last)
        if not all(self._buffer.has_dropped(*gap) for gap in gaps):
            return False
        self._ended_below = max(self._ended_below, last + 1)
        return True

    def _learn(self, outcome: str, first: int, last: int) -> None:
        self._ended.add(first, last)
        self._by_outcome.setdefault(outcome, Ranges()).add(first, last)

    def _forget_if_many(self) -> None:
        """Before an answer is taken, so that who waits for it finds it."""
        if len(self._ended) + sum(map(len, self._by_outcome.values())) > _MAX_RANGES:
            self._ended = Ranges()
            self._by_outcome = {}

    # --- asking

    def _ask_due(self, now: float) -> None:
        """Ask about all that is due, in one query, unless one is under way."""
        if self._address is None or not self._question.is_free(now):
            return
        wanted, around = Ranges(), Ranges()
        for want in self._wants:
            if want.due_at > now:
                continue
            missed = self._missed(want, now)
            if not missed:
                want.due_at = max(want.direct_at, now + want.pause_s)
                continue
            want.is_asked = True
            for first, last in missed:
                wanted.add(first, last)
                if want.pause_s == _PAUSE_S[0]:
                    around.add(max(0, first - _AROUND), max(last, min(last + _AROUND, self._direct_from - 1)))
        if not wanted:
            return
        both = Ranges(wanted)
        for first, last in around:
            for gap in self._ended.gaps(first, last):
                both.add(*gap)
        ranges = list(both if len(both) <= MAX_QUERY_RANGES else wanted)[:MAX_QUERY_RANGES]
        self._question.ask(ranges, now)
        self._buffer.ask(self._buffer.epoch, ranges)

    def _missed(self, want: _Want, now: float) -> list[SeqRange]:
        last = want.last if now >= want.direct_at else min(want.last, self._direct_from - 1)
        return [] if last < want.first else self._ended.gaps(want.first, last)

    def _next_due_s(self) -> float:
        """Seconds until there may be something to ask."""
        with self._lock:
            now = self._now()
            due_at = min((want.due_at for want in self._wants), default=math.inf)
            due_in_s = max(due_at, self._question.until) - now
            return max(0.01, min(due_in_s, _READ_S))

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
            if self._wants or self._listener is not None:
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
        self._ask_for_listener()
        with self._changed:
            self._ask_due(self._now())
            if lines:
                self._changed.notify_all()

    def _fail(self, exc: Exception, failures: int) -> None:
        if failures == 1 and (self._wants or self._listener is not None):
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
            self._direct_from = _NEVER if address is None else first
            self._question.close()
            for want in list(self._wants) if address is not None else ():
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
            self._tell(self._listener, answer.epoch, ended, unknown)

    def _take_own(self, ended: Sequence[tuple[str, int, int]], unknown: Sequence[SeqRange]) -> None:
        with self._lock:
            self._forget_if_many()
            for outcome, first, last in ended:
                self._learn(outcome, first, last)
            if not self._question.is_answered_by([*unknown, *((first, last) for _, first, last in ended)]):
                return
            self._question.close()
            now = self._now()
            for want in self._wants:
                if want.is_asked:
                    want.is_asked, want.due_at = False, now + want.pause_s
                    want.pause_s = min(2 * want.pause_s, _PAUSE_S[1])

    # --- the listener

    def _tell(
        self, listener: Listener, epoch: UUID, ended: Sequence[tuple[str, int, int]], unknown: Sequence[SeqRange]
    ) -> None:
        for outcome, first, last in ended:
            listener.settled(epoch, outcome, first, last)
        doubt = self._doubts.get(epoch)
        if doubt is None or not doubt.question.is_answered_by([*unknown, *((first, last) for _, first, last in ended)]):
            return
        for first, last in doubt.hear(unknown):
            listener.unknown(epoch, first, last)
        doubt.question.close(until=self._now() + _PAUSE_S[1])

    def _ask_for_listener(self) -> None:
        now = self._now()
        if self._listener is None or self._address is None or now < self._listener_at:
            return
        self._listener_at = now + _LISTENER_S
        overdue = self._listener.overdue()
        for epoch in self._doubts.keys() - overdue.keys():
            del self._doubts[epoch]
        for epoch, ranges in overdue.items():
            doubt = self._doubts.setdefault(epoch, Doubt())
            if ranges and doubt.question.is_free(now):
                doubt.question.ask(ranges[:MAX_QUERY_RANGES], now)
                self._buffer.ask(epoch, ranges[:MAX_QUERY_RANGES])
