"""A beat that is watched: health file, probe port and metrics, as workers have them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from penstock_worker.ingest.stall import Pulse, Stall
from penstock_worker.ingest.watch import Watch, Who
from penstock_worker.maintenance.schedule.tick import Beat
from penstock_worker.metrics import counter, family
from penstock_worker.settings import Settings

__all__ = ["BeatJudge", "WatchedBeat"]

#: Seconds without a tick after which a beat hangs. A database that has gone from the network holds one up for half a minute,
#: and then its name may have to be resolved, and the broker's.
SILENT_S = 120.0
#: Seconds without a tick after which its connection is cut off: a database that is frozen never answers, and a restart of the
#: beat would not cure it.
CUT_OFF_S = 45.0
_ADVICE = "another beat leads meanwhile, if there is one"


class BeatJudge:
    """
    Decides whether a beat stands still; see `Judge`, which does so for workers.

    Args:
        cut_off: Lets a tick that waits at the database fail. Called once for each tick that lasts too long.
    """

    #: A beat asks the broker itself, when something is due.
    is_broker_silent = False

    def __init__(self, cut_off: Callable[[], None]) -> None:
        self._cut_off = cut_off
        self._cut_off_at: float | None = None

    def look(self, now: float, pulse: Pulse | None) -> str | None:
        """Why it stands still, or None if it does not."""
        silent_s = 0.0 if pulse is None else now - pulse.at
        if pulse is not None and silent_s > CUT_OFF_S and self._cut_off_at != pulse.at:
            self._cut_off_at = pulse.at
            self._cut_off()
        return f"it has not looked at the schedule for {silent_s:.0f} s" if silent_s > SILENT_S else None


class WatchedBeat:
    """
    Args:
        settings: Health folder and probe port.
        beat: What ticks.
        clock: Monotonic.
        wall: Seconds since 1970.
    """

    def __init__(
        self,
        settings: Settings,
        beat: Beat,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.beat = beat
        self.stall: Stall | None = None
        self._clock, self._wall = clock, wall
        self._sent = 0
        self._registry = CollectorRegistry()
        self._runs_sent = counter(self._registry, "penstock_beat_runs_sent_total")
        self._registry.register(_State(self))
        for name in beat.defaults:
            self._runs_sent.labels(name)
        beat.on_sent = self._note_sent
        #: Before the first look, when it began to: a time long ago would be an alert at each start.
        self.ticked_at = wall()
        self.pulse: Pulse | None = self._make_pulse("the database has not been looked at yet")
        who = Who(f"beat-{os.getpid()}@{socket.gethostname()}", "beat", settings.queue, _ADVICE)
        self.watch = Watch(settings, who, lambda: self, BeatJudge(beat.cut_off), clock=clock, wall=wall)

    def start(self) -> None:
        """
        Be watched from now on.

        Raises:
            ConfigurationError: The probe port cannot be had.
        """
        self.watch.start(self._registry)

    def tick(self) -> float:
        """See `Beat.tick`."""
        pause_s = self.beat.tick()
        self.ticked_at = self._wall()
        self.pulse = self._make_pulse(self.beat.find_away("database"))
        return pause_s

    def close(self) -> None:
        """Give up the lead, and end in order."""
        self.beat.close()
        self.watch.end()

    def _make_pulse(self, database_why: str | None) -> Pulse:
        return Pulse(
            at=self._clock(),
            consumed=self._sent,
            paused_why=None,
            could_work=True,
            database_why=database_why,
            broker_why=self.beat.find_away("broker"),
        )

    def _note_sent(self, name: str) -> None:
        self._sent += 1
        self._runs_sent.labels(name).inc()


class _State(Collector):
    def __init__(self, watched: WatchedBeat) -> None:
        self._watched = watched

    def collect(self) -> Iterator[Metric]:
        """As it was at the last tick."""
        yield family("penstock_beat_leading", self._watched.beat.leads)
        yield family("penstock_beat_last_tick_timestamp_seconds", self._watched.ticked_at)
