"""A private Valkey, emptied for every test."""

from __future__ import annotations

import redis

from penstock_worker.stack.valkey import EmbeddedValkey
from tests.servers.process import Controls


class ValkeyServer(Controls, EmbeddedValkey):
    """One server for a test session; a test may stop, kill or freeze it."""

    def empty(self) -> None:
        """Run it again where a test ended it, and forget every key."""
        self.resume()
        self.start()
        with redis.Redis.from_url(self.url) as client:
            client.flushall()
