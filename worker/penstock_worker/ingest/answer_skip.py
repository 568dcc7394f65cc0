"""While a broker takes no answers, none is tried: each try would hold the loop, and whoever hears nothing asks again."""

from __future__ import annotations

import logging
from collections.abc import Callable

__all__ = ["SKIP_S", "AnswerSkip"]

logger = logging.getLogger(__name__)

#: Seconds after a failure to answer in which nothing is answered.
SKIP_S = 5.0


class AnswerSkip:
    """
    Whether answers are left out for now.

    Args:
        now: A monotonic clock, in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._until = 0.0

    @property
    def is_on(self) -> bool:
        """Whether the last failure is that recent."""
        return self._now() < self._until

    def begin(self, reason: object) -> None:
        """Answering has failed: leave it, and say so."""
        self._until = self._now() + SKIP_S
        logger.warning(
            "producers are not answered for %.0f s, they ask again: %s", SKIP_S, reason, extra={"action": "answers_lost"}
        )
