"""
A thread of the main process that notices when a worker stands still, see `stall`, and says so. Beat has one too.

It logs ONE error per episode, with the stacks of all threads, and a line when the worker goes on; it keeps the health file,
what `inspect stats` shows, and what the probe port answers. It mends nothing: a restart would hide the bug, and is the
operator's or the supervisor's to decide.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry

from penstock_worker.health import WRITE_EVERY_S, Does, Health, remove_health, write_health
from penstock_worker.ingest.readiness import Facts, check_live, check_ready
from penstock_worker.ingest.stall import Pulse, Stall
from penstock_worker.probe import Check, ProbePort
from penstock_worker.settings import Settings

__all__ = ["Judges", "Watch", "Watched", "Who", "format_stacks"]

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
#: Seconds that the thread has to end; it may be asking a broker that does not answer.
_END_S = 1.0


class Watched(Protocol):
    """What the watch needs of the step, or of beat."""

    pulse: Pulse | None
    stall: Stall | None


class Judges(Protocol):
    """What the watch needs of a `Judge`."""

    is_broker_silent: bool

    def look(self, now: float, pulse: Pulse | None) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Who:
    """
    What is watched.

    Args:
        name: Unique on its host.
        queue: From which it takes what it does.
        advice: What a person does should it stand still for long.
    """

    name: str
    does: Does
    queue: str
    advice: str


class Watch:
    """
    Args:
        settings: Health folder and probe port.
        who: What is watched.
        find_watched: Who leaves pulses, None before there is one.
        judge: Decides.
        is_stopping: Whether the process was told to end.
        clock: The monotonic clock of the pulses.
        wall: Seconds since 1970.
    """

    def __init__(
        self,
        settings: Settings,
        who: Who,
        find_watched: Callable[[], Watched | None],
        judge: Judges,
        is_stopping: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._who, self._find_watched, self._judge = settings, who, find_watched, judge
        self._is_stopping, self._clock, self._wall = is_stopping, clock, wall
        self._started_at, self._looked_at = wall(), clock()
        self._stall: Stall | None = None
        self._had_pulse = False
        self._told: Check | None = None
        self._write_at = 0.0
        self._is_writable = True
        self._ended = threading.Event()
        self._port: ProbePort | None = None
        self._thread = threading.Thread(target=self._run, name="penstock-watch", daemon=True)

    def start(self, metrics: CollectorRegistry) -> None:
        """
        Watch from now on, and answer probes where the settings give a port.

        Raises:
            ConfigurationError: The port cannot be had.
        """
        if self._settings.probe_port is not None:
            port = ProbePort(self._settings.probe_address, self._settings.probe_port, self.live, self.ready, metrics)
            port.start()
            self._port = port
        self._thread.start()

    def end(self) -> None:
        """The process ends in order."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(_END_S)
        if self._port is not None:
            self._port.stop()
        remove_health(self._settings.health_folder, self._who.name)

    def live(self) -> Check:
        """The answer to /live."""
        return check_live(self._facts())

    def ready(self) -> Check:
        """The answer to /ready."""
        return check_ready(self._facts())

    def run_once(self) -> None:
        """One look, and what follows from it."""
        watched = self._find_watched()
        pulse = watched.pulse if watched is not None else None
        self._had_pulse = self._had_pulse or pulse is not None
        why = self._judge.look(self._clock(), pulse)
        self._looked_at = self._clock()
        before = self._stall
        self._stall = Stall(before.since if before else self._wall(), why) if why else None
        if watched is not None:
            watched.stall = self._stall
        is_news = (before is None) != (self._stall is None)
        ready = self.ready()
        if is_news or ready != self._told or self._clock() >= self._write_at:
            self._told = ready
            self._write(pulse, ready)
        # Last: should the hanging loop hold the log's lock, the file has been written all the same.
        if is_news:
            self._tell(before)

    def _run(self) -> None:
        while not self._ended.wait(LOOK_EVERY_S):
            try:
                self.run_once()
            except Exception:
                # The watch must outlive whatever it meets; unless it tells so, its end is the silence that it is here to break.
                logger.exception("the watch could not look; it looks again", extra={"action": "watch_failed"})

    def _facts(self) -> Facts:
        watched = self._find_watched()
        return Facts(
            now=self._clock(),
            looked_at=self._looked_at,
            pulse=watched.pulse if watched is not None else None,
            had_pulse=self._had_pulse,
            stall=self._stall,
            is_stopping=self._is_stopping(),
            is_broker_silent=self._judge.is_broker_silent,
        )

    def _write(self, pulse: Pulse | None, ready: Check) -> None:
        self._write_at = self._clock() + WRITE_EVERY_S
        stall = self._stall
        health = Health(
            worker=self._who.name,
            queue=self._who.queue,
            does=self._who.does,
            started_at=self._started_at,
            written_at=self._wall(),
            is_consuming=pulse is not None and pulse.paused_why is None,
            paused_why=pulse.paused_why if pulse is not None else None,
            consumed_messages=pulse.consumed if pulse is not None else 0,
            is_stalled=stall is not None,
            stalled_since=stall.since if stall else None,
            stalled_why=stall.why if stall else None,
            not_ready=ready.reasons,
            database_why=pulse.database_why if pulse is not None else None,
        )
        try:
            write_health(self._settings.health_folder, health)
        except OSError as exc:
            if self._is_writable:
                logger.warning(
                    "no health file, `penstock health` will not know this process: %s",
                    exc,
                    extra={"action": "health_unwritten"},
                )
            self._is_writable = False

    def _tell(self, before: Stall | None) -> None:
        if self._stall is not None:
            stacks = "\n".join(format_stacks())
            line = "%s stands still: %s; if it does not go on by itself, restart it: %s. All threads:\n%s"
            logger.error(line, self._noun, self._stall.why, self._who.advice, stacks, extra={"action": "stalled"})
        elif before is not None:
            seconds = self._wall() - before.since
            logger.warning("%s goes on, %.0f s after: %s", self._noun, seconds, before.why, extra={"action": "going_on"})

    @property
    def _noun(self) -> str:
        return "this beat" if self._who.does == "beat" else "the worker"


def format_stacks() -> Iterator[str]:
    """What every thread of this process is doing, the main thread first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main = threading.main_thread().ident
    frames = sorted(sys._current_frames().items(), key=lambda item: item[0] != main)  # noqa: SLF001  # there is no other way
    for ident, frame in frames:
        yield f"--- {names.get(ident, 'a thread without a name')}"
        yield "".join(traceback.format_stack(frame)).rstrip()
