"""
Answers on Redis and Valkey: a list of the mailbox's own.

| key                      | type | what                                  | expiry | written by                              |
|--------------------------|------|---------------------------------------|--------|-----------------------------------------|
| penstock.answers.<hex>   | list | answers, the oldest at the left end   | 60 s   | workers (RPUSH), the mailbox takes out  |

The address holds as long as the mailbox, also over lost connections: what came meanwhile waits in the list.
"""

from __future__ import annotations

from typing import Any

import redis

from penstock_producers.transports.redis import translated
from penstock_producers.transports.redis_url import redis_arguments
from penstock_schemas.answer import new_address

__all__ = ["RedisMailbox"]

#: Answers taken in one round trip.
_ANSWERS_AT_ONCE = 1_000
#: Seconds one call waits at most on the server, whatever is asked for: a dead connection is noticed soon after.
_LONGEST_WAIT_S = 1.0
_HEALTH_CHECK_INTERVAL_S = 10


class RedisMailbox:
    """See `Mailbox`. One connection; redis-py opens it anew after every error."""

    def __init__(self, broker_url: str, timeout_s: float) -> None:
        self.address: str = new_address()
        self._arguments = redis_arguments(broker_url, socket_timeout_s=timeout_s + _LONGEST_WAIT_S, connect_timeout_s=timeout_s)
        self._client: redis.Redis | None = None

    def receive(self, timeout_s: float) -> list[bytes]:
        """See `Mailbox`."""
        with translated():
            if self._client is None:
                self._client = redis.Redis(
                    **self._arguments, health_check_interval=_HEALTH_CHECK_INTERVAL_S, single_connection_client=True
                )
            # To Redis 0 is for ever.
            found: Any = self._client.blpop([self.address], timeout=max(0.01, min(timeout_s, _LONGEST_WAIT_S)))
            if found is None:
                return []
            return [found[1], *self._take()]

    def _take(self) -> list[bytes]:
        # Not LPOP with a count, which Redis before 6.2 does not know.
        assert self._client is not None, "called while connected"
        pipeline = self._client.pipeline()
        pipeline.lrange(self.address, 0, _ANSWERS_AT_ONCE - 1)
        pipeline.ltrim(self.address, _ANSWERS_AT_ONCE, -1)
        lines: list[bytes] = pipeline.execute()[0]
        return lines

    def close(self) -> None:
        """See `Mailbox`. The next use has another address: late answers to this one must not keep its list alive."""
        client, self._client = self._client, None
        address, self.address = self.address, new_address()
        if client is not None:
            with translated():
                client.delete(address)
                client.close()

    def forget(self) -> None:
        """See `Mailbox`."""
        client, self._client = self._client, None
        if client is not None and client.connection is not None:
            # It sees the new process id, and closes its own copy of the socket without shutting the connection down.
            client.connection.disconnect()  # type: ignore[no-untyped-call]
