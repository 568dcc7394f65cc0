"""
What standing still is, decided from what the event loop says of itself.

The event loop leaves a `Pulse` several times a second; a thread looks at the last one, because the loop itself may hang:

| it stands still when                                         | which is likely                                          |
|--------------------------------------------------------------|----------------------------------------------------------|
| no pulse came for `stalled_after_s`                          | something blocks the loop: its stack is in the log        |
| a batch runs for that long beyond its time limit             | Celery does not kill it, or its end was not heard         |
| for that long messages wait, there is room, and none is taken | the consumer is deaf: a subscription or a timer is lost   |

There is no pulse while the worker starts, stops or reconnects; it may be paused, or the broker may be away: none of these is a
stall. The broker is asked for the queue's depth only after a while without a message.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from penstock_worker.ingest.depth import Depth

__all__ = ["Judge", "Pulse", "Stall"]

#: The depth is asked after this part of `stalled_after_s` without a message, and again after every further one.
ASK_PART = 1 / 4


@dataclass(frozen=True, slots=True)
class Pulse:
    """
    What the event loop says of the ingest step; times are of the monotonic clock.

    Args:
        at: When it said so.
        consumed: Messages that have been delivered since the worker started.
        paused_why: Why it waits for a probe to succeed: the database is away, usually. None while it does not.
        could_work: Nothing but their absence keeps messages from being taken or written.
        is_idle_with_work: Messages are here, and no child has any.
        oldest_batch_at: When the longest running batch began.
        database_why: What is wrong with the database, as far as the loop knows.
        broker_why: The same of the broker.
    """

    at: float
    consumed: int
    paused_why: str | None
    could_work: bool
    is_idle_with_work: bool = False
    oldest_batch_at: float | None = None
    database_why: str | None = None
    broker_why: str | None = None


@dataclass(frozen=True, slots=True)
class Stall:
    """A worker stands still; `since` is when that was noticed, in seconds since 1970."""

    since: float
    why: str


class Judge:
    """
    Decides whether a worker stands still, from one look to the next.

    Args:
        stalled_after_s: How long standing still is normal.
        time_limit_s: How long a batch may run.
        depth: Asks how many messages wait.

    Attributes:
        is_broker_silent: It did not answer when it was last asked, and nothing has come from it since.
    """

    is_broker_silent = False

    def __init__(self, stalled_after_s: float, time_limit_s: float, depth: Depth) -> None:
        self._stalled_after_s, self._time_limit_s, self._depth = stalled_after_s, time_limit_s, depth
        self._consumed = -1
        self._asked_at = self._ask_at = 0.0
        self._broker_silent_at = -math.inf
        self._waiting_since: float | None = None
        self._waiting = 0

    def look(self, now: float, pulse: Pulse | None) -> str | None:
        """Why the worker stands still, or None if it does not."""
        if pulse is None:
            self._begin_anew(now, -1)
            return None
        silent_s = now - pulse.at
        if silent_s > self._stalled_after_s:
            # A loop that waits for a broker which answers nobody is not to blame, nor in the moment in which that is back.
            self._ask_depth(now)
            is_excused = now - self._broker_silent_at <= self._stalled_after_s
            return None if is_excused else f"the event loop has not turned for {silent_s:.0f} s"
        return self._find_overdue(now, pulse) or self._find_deaf(now, pulse)

    def _find_overdue(self, now: float, pulse: Pulse) -> str | None:
        if pulse.oldest_batch_at is None:
            return None
        ran_s = now - pulse.oldest_batch_at
        if ran_s <= self._time_limit_s + self._stalled_after_s:
            return None
        return f"a batch has been running for {ran_s:.0f} s, the limit is {self._time_limit_s:.0f} s"

    def _find_deaf(self, now: float, pulse: Pulse) -> str | None:
        if pulse.consumed != self._consumed or pulse.paused_why is not None or not pulse.could_work:
            self._begin_anew(now, pulse.consumed)
            return None
        if pulse.is_idle_with_work:
            self._waiting_since = self._waiting_since or now
        elif now >= self._ask_at:
            self._ask(now)
        if self._waiting_since is None or now - self._waiting_since < self._stalled_after_s:
            return None
        if not pulse.is_idle_with_work and self._asked_at < self._waiting_since + self._stalled_after_s:
            self._ask(now)  # once more: other workers may have taken them since the last time
            if self._waiting_since is None:
                return None
        waited_s = now - self._waiting_since
        if pulse.is_idle_with_work:
            return f"messages are here, and none has been given to a pool process for {waited_s:.0f} s"
        return f"{self._waiting} messages wait in the queue, and none has been taken for {waited_s:.0f} s"

    def _ask(self, now: float) -> None:
        self._asked_at, self._ask_at = now, now + ASK_PART * self._stalled_after_s
        depth = self._ask_depth(now)
        self._waiting = depth or 0
        # A broker that does not say is away; from when it is back, messages may wait as long as ever.
        self._waiting_since = (self._waiting_since or now) if depth else None

    def _ask_depth(self, now: float) -> int | None:
        depth = self._depth.ask()
        self.is_broker_silent = depth is None
        if depth is None:
            self._broker_silent_at = now
        return depth

    def _begin_anew(self, now: float, consumed: int) -> None:
        self.is_broker_silent = False
        if consumed != self._consumed or self._waiting_since is not None:
            self._depth.close()
        self._consumed = consumed
        self._waiting_since = None
        self._ask_at = now + ASK_PART * self._stalled_after_s
