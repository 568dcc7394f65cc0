"""
Answers on Redis and Valkey: one round trip for all of a batch.

| key                      | type | meaning                                                  | who writes            | expiry |
|--------------------------|------|----------------------------------------------------------|-----------------------|--------|
| penstock.answers.<hex>   | list | what became of a producer's events; new ones on the right | workers               | 60 s   |
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import redis

from penstock_worker.ingest.answer_skip import AnswerSkip
from penstock_worker.ingest.answers import AddressedAnswer

__all__ = ["RedisAnswers"]

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
        self._client = client
        self._skip = AnswerSkip(now)

    def send(self, answers: Sequence[AddressedAnswer]) -> None:
        """Send answers, or leave them out and say so; see `Source.answer`."""
        if self._skip.is_on:
            return
        try:
            self._send(answers)
        except redis.RedisError as exc:
            self._skip.begin(exc)

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
