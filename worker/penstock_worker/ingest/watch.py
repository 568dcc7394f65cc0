"""
A thread of the worker's main process that notices when the worker stands still, see `stall`, and says so.

It logs ONE error per episode, with the stacks of all threads, and a line when the worker goes on; it keeps the health file and
what `inspect stats` shows. It mends nothing: a restart would hide the bug, and is the operator's or the supervisor's to decide.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from celery import bootsteps

from penstock_worker.health import WRITE_EVERY_S, Health, remove_health, write_health
from penstock_worker.ingest.depth import depth_of
from penstock_worker.ingest.stall import Judge, Pulse, Stall
from penstock_worker.settings import Settings

__all__ = ["Watch", "WatchStep", "format_stacks"]

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
#: Seconds that the thread has to end; it may be asking a broker that does not answer.
_END_S = 1.0


class Watched(Protocol):
    """What the watch needs of the ingest step."""

    pulse: Pulse | None
    stall: Stall | None


class Watch:
    """
    Args:
        settings: Queue, health folder and patience.
        name: The worker's.
        find_step: The ingest step, None before there is one.
        judge: Decides.
        clock: The monotonic clock of the pulses.
        wall: Seconds since 1970.
    """

    def __init__(
        self,
        settings: Settings,
        name: str,
        find_step: Callable[[], Watched | None],
        judge: Judge,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._name, self._find_step, self._judge = settings, name, find_step, judge
        self._clock, self._wall = clock, wall
        self._started_at = wall()
        self._stall: Stall | None = None
        self._write_at = 0.0
        self._is_writable = True

    def run_once(self) -> None:
        """One look, and what follows from it."""
        step = self._find_step()
        pulse = step.pulse if step is not None else None
        why = self._judge.look(self._clock(), pulse)
        before = self._stall
        self._stall = Stall(before.since if before else self._wall(), why) if why else None
        if step is not None:
            step.stall = self._stall
        is_news = (before is None) != (self._stall is None)
        if is_news or self._clock() >= self._write_at:
            self._write(pulse)
        # Last: should the hanging loop hold the log's lock, the file has been written all the same.
        if is_news:
            self._tell(before)

    def end(self) -> None:
        """The worker has ended in order."""
        remove_health(self._settings.health_folder, self._name)

    def _write(self, pulse: Pulse | None) -> None:
        self._write_at = self._clock() + WRITE_EVERY_S
        stall = self._stall
        health = Health(
            worker=self._name,
            queue=self._settings.queue,
            started_at=self._started_at,
            written_at=self._wall(),
            is_consuming=pulse is not None and pulse.paused_why is None,
            paused_why=pulse.paused_why if pulse is not None else None,
            consumed_messages=pulse.consumed if pulse is not None else 0,
            is_stalled=stall is not None,
            stalled_since=stall.since if stall else None,
            stalled_why=stall.why if stall else None,
        )
        try:
            write_health(self._settings.health_folder, health)
        except OSError as exc:
            if self._is_writable:
                logger.warning("no health file, `penstock health` will not know this worker: %s", exc)
            self._is_writable = False

    def _tell(self, before: Stall | None) -> None:
        if self._stall is not None:
            advice = "if it does not go on by itself, restart this worker: its messages go back to the queue, none is lost"
            logger.error(
                "the worker stands still: %s; %s. All threads:\n%s",
                self._stall.why,
                advice,
                "\n".join(format_stacks()),
                extra={"action": "stalled"},
            )
        elif before is not None:
            seconds = self._wall() - before.since
            logger.warning("the worker goes on, %.0f s after: %s", seconds, before.why, extra={"action": "going_on"})


class WatchStep(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
    """Runs the watch as long as the worker lives. It starts before the consumer, whose start returns when the worker ends."""

    requires = ("celery.worker.components:Pool",)
    name = "penstock-watch"

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, parent: Any) -> None:
        """Begin to watch; the pool's first processes have been forked by now."""
        settings: Settings = parent.app.penstock_settings
        judge = Judge(settings.stalled_after_s, settings.batch_time_limit_s, depth_of(settings))

        def find_step() -> Watched | None:
            step: Watched | None = getattr(getattr(parent, "consumer", None), "ingest_step", None)
            return step

        self._watch = Watch(settings, parent.hostname, find_step, judge)
        self._thread = threading.Thread(target=self._run, name="penstock-watch", daemon=True)
        self._thread.start()

    def stop(self, parent: Any) -> None:
        """End with the worker."""
        del parent
        if self._thread is not None:
            self._ended.set()
            self._thread.join(_END_S)
            self._watch.end()

    def _run(self) -> None:
        while not self._ended.wait(LOOK_EVERY_S):
            try:
                self._watch.run_once()
            except Exception:
                # The watch must outlive whatever it meets; unless it tells so, its end is the silence that it is here to break.
                logger.exception("the watch could not look at the worker; it looks again")


def format_stacks() -> Iterator[str]:
    """What every thread of this process is doing, the main thread first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main = threading.main_thread().ident
    frames = sorted(sys._current_frames().items(), key=lambda item: item[0] != main)  # noqa: SLF001  # there is no other way
    for ident, frame in frames:
        yield f"--- {names.get(ident, 'a thread without a name')}"
        yield "".join(traceback.format_stack(frame)).rstrip()
