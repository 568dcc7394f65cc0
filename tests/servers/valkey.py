"""A private Valkey, emptied for every test."""

from __future__ import annotations

import redis

from penstock_schemas.wire import QUEUE
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

    def waiting(self, url: str) -> int:
        """Messages in the queue of events."""
        with redis.Redis.from_url(url) as client:
            return int(client.llen(QUEUE))  # type: ignore[arg-type]


class DurableValkey(ValkeyServer):
    """One that has on disk what it has confirmed, so that a SIGKILL of it takes nothing."""

    def prepare(self) -> None:
        super().prepare()
        text = self._configuration.read_text()
        self._configuration.write_text(text.replace("appendfsync everysec", "appendfsync always"))
