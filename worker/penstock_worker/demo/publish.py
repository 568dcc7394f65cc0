"""
Several processes that publish the catalogues' events, each a share of the files, in an order of their own.

A file's front side and its back side are sent by two different processes, and each process shuffles what it has before it
sends it. So tasks reach the broker before their session, and updates before what they update.
"""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.context import SpawnProcess
from multiprocessing.sharedctypes import Synchronized
from typing import Any

from penstock_producers import Producer
from penstock_worker.demo.catalogues import find_catalogues
from penstock_worker.demo.events import Event, Side, events_of

__all__ = ["Publishers"]

#: Files that are read and shuffled together: what a process holds in memory.
FILES_AT_ONCE = 100
#: How long the broker may take to confirm the last events.
FLUSH_S = 120.0
#: Events between two updates of the count that the progress bar reads.
COUNT_EVERY = 100


@dataclass(frozen=True, slots=True)
class Share:
    """What one process is told: everything it needs, since it starts with nothing."""

    producer: str
    number: int
    processes: int
    files: int | None
    start: datetime
    broker_url: str
    queue: str


@dataclass
class Publishers:
    """
    The producing side of one run.

    Its producers have names of their own (`producers`), so that the ledger tells this run's events from others'.
    """

    broker_url: str
    queue: str
    files: int | None
    processes: int
    _running: list[SpawnProcess] = field(default_factory=list)
    _counts: list[Synchronized[int]] = field(default_factory=list)
    _run: str = field(default_factory=lambda: f"demo-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}")

    @property
    def producers(self) -> list[str]:
        """The producers' names."""
        return [f"{self._run}-{number}" for number in range(self.processes)]

    @property
    def published(self) -> int:
        """Events accepted so far."""
        return sum(count.value for count in self._counts)

    @property
    def is_running(self) -> bool:
        """Whether a process still publishes."""
        return any(process.is_alive() for process in self._running)

    @property
    def has_failed(self) -> bool:
        """Whether a process ended before it had published its share; it has said why on stderr."""
        return any(process.exitcode for process in self._running)

    def start(self) -> None:
        """Start the processes."""
        # Spawned, not forked: the progress bar has a thread, and a child would inherit its locks.
        context = multiprocessing.get_context("spawn")
        start = datetime.now(UTC)
        for number, producer in enumerate(self.producers):
            count: Any = context.Value("q", 0)
            share = Share(producer, number, self.processes, self.files, start, self.broker_url, self.queue)
            process = context.Process(target=publish_share, args=(share, count), name=producer, daemon=True)
            process.start()
            self._running.append(process)
            self._counts.append(count)

    def stop(self) -> None:
        """End what still runs; nothing when all is published."""
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.join()


def publish_share(share: Share, count: Synchronized[int]) -> None:
    """
    Publish one process's share, wait until the broker has confirmed it; the body of a process.

    Raises:
        TimeoutError: The broker did not confirm everything in time.
    """
    with (
        suppress(KeyboardInterrupt),  # the one who started it says that it was stopped
        Producer(share.broker_url, name=share.producer, queue=share.queue, policy="block") as producer,
    ):
        published = 0
        for published, event in enumerate(_shuffled(share), start=1):
            producer.publish(event.record, occurred_at=event.occurred_at(share.start))
            if published % COUNT_EVERY == 0:
                count.value = published
        count.value = published
        if not producer.flush(FLUSH_S):
            raise TimeoutError(f"{share.producer}: the broker did not confirm everything within {FLUSH_S:.0f} s")


def _shuffled(share: Share) -> Iterator[Event]:
    chance = random.Random(share.number)  # noqa: S311  # a shuffle, not a secret
    catalogues = find_catalogues(share.files)
    for first in range(0, len(catalogues), FILES_AT_ONCE):
        events = [
            event
            for number, catalogue in enumerate(catalogues[first : first + FILES_AT_ONCE], start=first)
            for side, sender in ((Side.FRONT, number), (Side.BACK, number + 1))
            if sender % share.processes == share.number
            for event in events_of(catalogue, side)
        ]
        chance.shuffle(events)
        yield from events
