"""
The circuit breaker: how often a broker that does not answer is tried.

    closed     everything is sent; after a failure it waits a little longer each time
    open       so many failures in a row that the broker counts as away: nothing is sent until the next attempt
    half_open  the attempt is under way, with ONE message; the crowd follows when it is confirmed

Pure: it holds no clock and waits for nobody.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal

__all__ = ["Breaker", "State"]

State = Literal["closed", "open", "half_open"]

#: Failures in a row that open it.
_THRESHOLD = 3


class Breaker:
    """
    Args:
        retry_min_s: The shortest wait.
        retry_max_s: The longest.
        jitter: A number between 0 and 1, anew at each call.
    """

    def __init__(self, retry_min_s: float, retry_max_s: float, jitter: Callable[[], float] = random.random) -> None:
        self.failures = 0
        #: When the next attempt is planned, by the caller's clock; None while none is: one is under way, or nothing failed.
        self.retry_at: float | None = None
        self._retry_min_s = retry_min_s
        self._retry_max_s = retry_max_s
        self._jitter = jitter

    @property
    def state(self) -> State:
        if self.failures < _THRESHOLD:
            return "closed"
        return "half_open" if self.retry_at is None else "open"

    @property
    def is_tripped(self) -> bool:
        """Whether an attempt would be one with one message only."""
        return self.failures >= _THRESHOLD

    def begin(self) -> None:
        """An attempt is under way."""
        self.retry_at = None

    def succeed(self) -> None:
        """The broker has confirmed something."""
        self.failures = 0
        self.retry_at = None

    def fail(self, now: float, *, is_urgent: bool = False) -> float:
        """
        The attempt failed.

        Args:
            now: Of the caller's clock.
            is_urgent: Time is short: it is tried again soon, however often it failed.

        Returns:
            Seconds to wait: up to twice as many after each failure, and any time below that, so that a broker that comes back
            is not met by all producers at once.
        """
        doublings = 0 if is_urgent else min(self.failures, 16)
        self.failures += 1
        longest_s = min(self._retry_max_s, self._retry_min_s * (1 << doublings))
        delay_s = self._retry_min_s + self._jitter() * max(0.0, longest_s - self._retry_min_s)
        self.retry_at = now + delay_s
        return delay_s
