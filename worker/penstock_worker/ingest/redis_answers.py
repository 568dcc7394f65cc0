"""
Answers on Redis and Valkey: one round trip for all of a batch.

| key                      | type | meaning                                                  | who writes            | expiry |
|--------------------------|------|----------------------------------------------------------|-----------------------|--------|
| penstock.answers.<hex>   | list | what became of a producer's events; new ones on the right | workers               | 60 s   |
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import redis

from penstock_worker.ingest.answers import SKIP_S, AddressedAnswer

__all__ = ["RedisAnswers"]

logger = logging.getLogger(__name__)

#: Answers that may wait for a producer which does not read, and milliseconds after the last one until all are thrown away.
ANSWERS_KEPT, ANSWERS_MS = 10_000, 60_000


class RedisAnswers:
    """
    Puts answers into their producers' lists.

    Args:
        client: The source's.
        now: A monotonic clock, in seconds.
    """

    def __init__(self, client: redis.Redis, now: Callable[[], float] = time.monotonic) -> None:
        self._client, self._now = client, now
        self._skip_until = 0.0

    def send(self, answers: Sequence[AddressedAnswer]) -> None:
        """Send answers, or leave them out and say so; see `Source.answer`."""
        if self._now() < self._skip_until:
            return
        try:
            self._send(answers)
        except redis.RedisError as exc:
            self._skip_until = self._now() + SKIP_S
            logger.warning(
                "producers are not answered for %.0f s, they ask again: %s", SKIP_S, exc, extra={"action": "answers_lost"}
            )

    def _send(self, answers: Sequence[AddressedAnswer]) -> None:
        lines: dict[str, list[str]] = {}
        for address, line in answers:
            lines.setdefault(address, []).append(line)
        pipeline = self._client.pipeline(transaction=False)
        for address, its_lines in lines.items():
            pipeline.rpush(address, *its_lines)
            pipeline.ltrim(address, -ANSWERS_KEPT, -1)
            pipeline.pexpire(address, ANSWERS_MS)
        pipeline.execute()
