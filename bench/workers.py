"""Workers as shipped, and how long they take for what waits in the queue."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from bench.backlog import Backlog
from bench.site import RoundVoid, Site
from penstock_worker.stack.process import ManagedProcess

__all__ = ["end_idle", "ended_events", "timed_drain", "until", "worker", "workers"]

#: How often the queue's depth and the tables are looked at: the clock's grain.
POLL_S = 0.01
#: Far above what the largest backlog takes on a slow machine.
_STALL_S = 3600.0
#: What Celery logs when a worker has all its parts.
_READY_WORD = " ready."


class Worker(ManagedProcess):
    """`penstock worker` with the site's addresses."""

    def __init__(self, place: Site, number: int = 0) -> None:
        folder = place.folder / f"worker-{number}"
        folder.mkdir(exist_ok=True)
        super().__init__("worker", log=folder / "log", env=place.environment, cwd=folder)

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "penstock_worker", "worker"]


@contextmanager
def worker(place: Site, number: int = 0) -> Iterator[ManagedProcess]:
    """One worker as shipped, stopped at the end; it may still be starting."""
    process = Worker(place, number)
    process.launch()
    try:
        yield process
    finally:
        with place.phases.of("stopping workers"):
            process.stop()


@contextmanager
def workers(place: Site, count: int) -> Iterator[list[ManagedProcess]]:
    """So many workers, all of them started and idle."""
    with ExitStack() as stack:
        started = [stack.enter_context(worker(place, number)) for number in range(count)]
        with place.phases.of("starting workers"):
            for process in started:
                until(lambda process=process: _READY_WORD in process.recent_log(), [process], "does not start")  # type: ignore[misc]
        yield started


def timed_drain(place: Site, backlog: Backlog, events: int, ended: Callable[[Site], int] | None = None) -> float:
    """
    Start a worker on a filled queue and give the seconds until the last event is committed.

    The clock starts at the last look at the queue that found it full, that is, at most 10 ms before the worker took its first
    message. Starting Python, Celery and the pool is left out; the children's first connections, staging tables and validators
    are in. The clock stops at the first look at the database that finds all events: at the ledger, which tells of the rows,
    for it is in the same transactions. The database is not looked at before the queue is empty.

    Args:
        place: Where.
        backlog: The queue, filled.
        events: How many are in it.
        ended: How many have ended; default: those that the ledger knows.
    """
    count = ended or ended_events
    full = backlog.depth()
    with worker(place) as process:
        with place.phases.of("starting workers"):
            started = until(lambda: backlog.depth() != full, [process], "took nothing")
        with place.phases.of("draining"):
            until(lambda: backlog.depth() == 0, [process], "does not come to the end")
            until(lambda: count(place) >= events, [process], "does not come to the end")
        seconds = time.perf_counter() - started
        end_idle(place, backlog, process)
        return seconds


def end_idle(place: Site, backlog: Backlog, process: ManagedProcess) -> None:
    """
    Redis: kill a worker that has acknowledged all, for a stop takes Celery two seconds of waiting for its own threads.

    On RabbitMQ nobody can tell whether all is acknowledged, so there a worker is stopped, by the context that it runs in.
    """
    if place.broker == "redis":
        with place.phases.of("stopping workers"):
            until(lambda: not backlog.under_way(), [process], "does not acknowledge")
            process.kill()


def ended_events(place: Site) -> int:
    """Events that the ledger knows, however they ended."""
    return int(place.value("SELECT coalesce(sum(upper(seqs) - lower(seqs)), 0) FROM penstock.ledger"))


def until(holds: Callable[[], bool], processes: Sequence[ManagedProcess], complaint: str, poll_s: float = POLL_S) -> float:
    """
    Wait until the condition holds; when it was last seen not to.

    Raises:
        RoundVoid: A process that it waits for ended, or it takes too long.
    """
    seen = time.perf_counter()
    deadline = seen + _STALL_S
    while not holds():
        seen = time.perf_counter()
        ended = [process for process in processes if not process.is_running]
        if seen > deadline or ended:
            raise RoundVoid(f"the worker {complaint}: {[process.last_words() for process in ended or processes]}")
        time.sleep(poll_s)
    return seen
