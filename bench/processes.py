"""What processes take: CPU seconds and resident memory, by what they are for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

import psutil

from bench.site import Site
from penstock_worker.stack.process import ManagedProcess

__all__ = ["CpuClock", "MemoryWatch", "family", "watched_memory"]

_SAMPLE_S = 0.25


def family(process: ManagedProcess) -> list[psutil.Process]:
    """A program and all that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    return []


@dataclass(frozen=True, slots=True)
class CpuClock:
    """
    CPU seconds so far of the parts: `main` and `children` of the workers, `postgres`, `broker`.

    What a process took that has ended is not in it: read it before the workers stop.
    """

    seconds: dict[str, dict[tuple[int, float], float]]

    @classmethod
    def read(cls, place: Site, workers: Sequence[ManagedProcess]) -> Self:
        """Now."""
        families = [family(process) for process in workers]
        return cls(
            {
                "main": _cpu_seconds([members[0] for members in families if members]),
                "children": _cpu_seconds([child for members in families for child in members[1:]]),
                "postgres": _cpu_seconds(family(place.postgres)),
                "broker": _cpu_seconds(family(place.broker_server)),
            }
        )

    def since(self, before: CpuClock) -> dict[str, float]:
        """CPU seconds by part since an earlier reading."""
        return {
            part: sum(seconds - before.seconds[part].get(process, 0.0) for process, seconds in now.items())
            for part, now in self.seconds.items()
        }


def _cpu_seconds(processes: Sequence[psutil.Process]) -> dict[tuple[int, float], float]:
    found = {}
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[process.pid, process.create_time()] = times.user + times.system
    return found


@dataclass
class MemoryWatch:
    """
    The most that a program and all that it started had resident at one moment, in bytes.

    `resident` counts a page once for every process that has it, `proportional` once: after a fork most pages are shared.
    """

    process: ManagedProcess
    resident: int = 0
    proportional: int = 0
    _done: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Look until told to stop."""
        while not self._done.wait(_SAMPLE_S):
            self._look()

    def stop(self) -> None:
        """The last look."""
        self._done.set()

    def _look(self) -> None:
        resident = proportional = 0
        for member in family(self.process):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                memory = member.memory_full_info()
                resident += memory.rss
                proportional += getattr(memory, "pss", memory.rss)
        self.resident = max(self.resident, resident)
        self.proportional = max(self.proportional, proportional)


@contextmanager
def watched_memory(process: ManagedProcess) -> Iterator[MemoryWatch]:
    """Watch a program while the block runs."""
    watch = MemoryWatch(process)
    thread = threading.Thread(target=watch.run, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.stop()
        thread.join()
