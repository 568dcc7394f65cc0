"""
The keeper: the thread that moves events to the spool when the broker takes nothing. The sender cannot: it hangs in the broker.

It also has the files of dead processes adopted. While nothing is held and nothing is to be adopted, it sleeps.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable

from penstock_producers.buffer import Buffer
from penstock_producers.options import Options
from penstock_producers.spool.adopter import Adopter
from penstock_producers.spool.spool import Spool
from penstock_producers.threads import start_thread

__all__ = ["Keeper"]

logger = logging.getLogger("penstock.producer")

#: Seconds without a confirm, after which events that should have been sent move to disk.
_STALLED_S = 1.0
#: Seconds after which they do although the broker confirms others: it is slower than the publishers.
_OVERTAKEN_S = 5.0
#: Seconds between two looks for files of dead processes, half of them chance.
_ADOPT_EVERY_S = 30.0


class Keeper:
    """
    Starts with the first message, and ends with the sender.

    Args:
        is_away: Whether the broker is known to be away.
        on_turn: Called at each turn, before it waits, without a lock held.
    """

    def __init__(
        self,
        options: Options,
        buffer: Buffer,
        spool: Spool,
        adopter: Adopter,
        *,
        is_away: Callable[[], bool],
        on_turn: Callable[[], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_running = False
        self._options = options
        self._buffer = buffer
        self._spool = spool
        self._adopter = adopter
        self._is_away = is_away
        self._on_turn = on_turn
        self._now = now
        self._wake = threading.Condition(buffer.lock)
        self._start_lock = threading.RLock()
        self._is_idle = False
        self._is_stopped = False
        self._adopt_at = -math.inf

    def watch(self) -> None:
        """Something is held from now on, or the broker has gone away. Called often, by the sender."""
        if not self.is_running:
            self._start()
        elif self._is_idle or self._is_away():
            with self._buffer.lock:
                self._is_idle = False
                self._wake.notify_all()

    def stop(self) -> None:
        """End soon. Does not wait."""
        with self._buffer.lock:
            self._is_stopped = True
            self._wake.notify_all()

    def spill_all(self) -> None:
        """Move everything now, in the caller's thread; what the disk refuses stays in memory."""
        if not self._spool.is_journal:
            while self._buffer.move_to_spool():
                pass
        self._spool.tell()

    def _start(self) -> None:
        with self._start_lock:
            if self.is_running or self._is_stopped:
                return
            self.is_running = True
            try:
                start_thread(self.run, f"penstock-{self._options.name}-keeper", self._set_ended)
            except RuntimeError as exc:  # at the very end of a process
                logger.debug("the keeper of %s cannot be started: %s", self._options.name, exc)

    def _set_ended(self) -> None:
        self.is_running = False

    def run(self) -> None:
        """Turn until it is stopped."""
        try:
            while not self._is_stopped:
                self.run_once()
        except BaseException:
            # Errors are caught in the turn; this is SystemExit and its like.
            logger.exception("the keeper of %s ended, the next message starts another one", self._options.name)
        finally:
            self.is_running = False

    def run_once(self) -> None:
        """One turn: wait until there is something to do, and do it."""
        try:
            if self._now() >= self._adopt_at:
                self._adopt_at = self._now() + _ADOPT_EVERY_S * random.uniform(0.5, 1)  # noqa: S311  # jitter
                self._adopter.start()
                self._spool.stocks.sweep()
            self._on_turn()
            self._wait()
            if not self._is_stopped and self._spill_at() <= self._now():
                self.spill_all()
        except Exception:
            # An error of ours must not end the thread silently, nor turn it in haste.
            logger.exception("the keeper of %s failed, it goes on in a while", self._options.name)
            with self._buffer.lock:
                self._wake.wait(_STALLED_S)

    def _wait(self) -> None:
        with self._buffer.lock:
            while not self._is_stopped:
                spill_at = self._spill_at()
                left_s = min(spill_at, self._adopt_at) - self._now()
                if left_s <= 0:
                    return
                self._is_idle = math.isinf(spill_at)
                # While the sender waits for the broker, with whatever message, nobody tells what is published meanwhile.
                is_waiting = self._spool.stocks.has_unsent or self._is_away() or self._buffer.held.in_flight
                self._wake.wait(min(left_s, _STALLED_S) if is_waiting else left_s)
                self._is_idle = False

    def _spill_at(self) -> float:
        """When what is in memory has waited too long; infinity when nothing is there."""
        buffer = self._buffer
        if self._spool.is_journal or not buffer.held.count:
            return math.inf
        if self._is_away():
            return self._spool.refused_until
        oldest_at = buffer.held.oldest_at + self._options.linger_s
        due_at = min(max(oldest_at, buffer.stalled_at()) + _STALLED_S, oldest_at + _OVERTAKEN_S)
        return max(due_at, self._spool.refused_until)
