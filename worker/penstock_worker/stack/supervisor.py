"""Starting again what has died, without a hot loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from penstock_worker.errors import ConfigurationError
from penstock_worker.stack.process import ManagedProcess

__all__ = ["Supervisor"]

_POLL_S = 0.2
_FIRST_DELAY_S = 1.0
_LONGEST_DELAY_S = 30.0
#: A process that lived this long has recovered: its next death is a new one.
_HEALTHY_AFTER_S = 60.0


@dataclass
class _Watched:
    process: ManagedProcess
    started_at: float
    delay_s: float = _FIRST_DELAY_S
    restart_at: float | None = None


class Supervisor:
    """
    One thread that looks at each process a few times a second.

    A dead one is started again after a second, and after twice as long with each death that follows soon.
    """

    def __init__(
        self, on_restart: Callable[[], None], say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._on_restart = on_restart
        self._say = say
        self._clock = clock
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, processes: Iterable[ManagedProcess]) -> None:
        watched = [_Watched(process, self._clock()) for process in processes]
        self._thread = threading.Thread(target=self._run, args=(watched,), name="penstock-supervisor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Nothing is started any more when this returns."""
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, watched: list[_Watched]) -> None:
        while not self._is_over.wait(_POLL_S):
            for one in watched:
                self.look_at(one)

    def look_at(self, one: _Watched) -> None:
        """Do what this process needs now: nothing, a note of its death, or its restart."""
        now = self._clock()
        if one.process.is_running:
            if now - one.started_at > _HEALTHY_AFTER_S:
                one.delay_s = _FIRST_DELAY_S
        elif one.restart_at is None:
            one.restart_at = now + one.delay_s
            self._say(
                f"{one.process.name} ended with code {one.process.exit_code}, starts again in {one.delay_s:.0f} s"
                f" (see {one.process.log})"
            )
        elif now >= one.restart_at:
            self._restart(one)

    def _restart(self, one: _Watched) -> None:
        one.restart_at = None
        one.delay_s = min(one.delay_s * 2, _LONGEST_DELAY_S)
        one.started_at = self._clock()
        try:
            # A worker whose broker is away starts and waits; one that is never ready would hold up the others here.
            one.process.prepare()
            one.process.launch()
        except (ConfigurationError, OSError) as exc:
            self._say(f"{one.process.name} did not start: {exc}")
            return
        self._on_restart()
