"""What the spool's tests share: producers whose broker can be away, and processes that are killed in the middle."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from kombu import Connection, Consumer, Queue

from penstock_producers import Producer
from penstock_producers.testing import MemoryBroker, MemoryTransport
from penstock_schemas.wire import QUEUE, event_id
from tests.records import Pair

__all__ = ["away_producer", "files", "killed", "memory_producer", "pairs", "read_events", "spooled"]


def memory_producer(transport: MemoryTransport, **options: Any) -> Producer:
    """With the real default of durability, for one destination."""
    words = {"name": "shop", "linger_s": 0.0, "retry_min_s": 0.001, "retry_max_s": 0.01, **options}
    return Producer("redis://unused", broker=MemoryBroker(transport), **words)


def away_producer(**options: Any) -> Producer:
    """Its broker is away for good."""
    transport = MemoryTransport()
    transport.is_away = True
    return memory_producer(transport, **options)


def spooled(producer: Producer, count: int) -> Callable[[], bool]:
    """Whether its own events are all on disk; it may have adopted others."""
    return lambda: (status := producer.status()).spooled >= count and status.pending_bytes == 0


def killed(work: Callable[[], Any]) -> None:
    """Do it in a fork that then kills itself by SIGKILL."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), "the work failed"


def files(folder: Path) -> list[str]:
    """The endings of all files of a spool folder."""
    return sorted(path.name.partition(".")[2] for path in folder.glob("*/*"))


def pairs(count: int) -> list[Pair]:
    return [Pair(tenant="a", number=number) for number in range(count)]


def read_events(broker_url: str) -> list[str]:
    """The ids of all events in the queue, which is empty afterwards."""
    found: list[str] = []

    def keep(message: Any) -> None:
        body = json.loads(message.body)
        found.extend(event_id(UUID(body["epoch"]), body["seq"] + place) for place in range(len(body["events"])))

    queue = Queue(QUEUE, no_declare=True)
    with (
        Connection(broker_url, connect_timeout=20) as connection,
        connection.channel() as channel,
        Consumer(channel, [queue], on_message=keep, no_ack=True),
    ):
        while True:
            try:
                connection.drain_events(timeout=1)
            except TimeoutError:
                return found
