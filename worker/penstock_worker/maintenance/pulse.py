"""
What a worker that only runs jobs says of itself, so that it can be watched as one that writes events is.

Jobs may take hours and wait for each other, so none of that is standing still: only a loop that hangs is. Whether jobs run when
they should, the schedule tells.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

from celery import bootsteps
from celery.worker import state
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from penstock_worker.ingest.database_look import DatabaseLook
from penstock_worker.ingest.depth import Depth, depth_of
from penstock_worker.ingest.request import Submitter
from penstock_worker.ingest.stall import Judge, Pulse, Stall
from penstock_worker.ingest.watch import Judges, Watched, Who
from penstock_worker.ingest.watch_step import WatchStep
from penstock_worker.metrics import family
from penstock_worker.settings import Settings

__all__ = ["JobsWatchStep", "PulseStep"]

logger = logging.getLogger(__name__)

PULSE_S = 0.25


class PulseStep(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
    """Leaves a pulse while the worker takes jobs, and has an idle child look at the database."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    name = "penstock-pulse"

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        settings: Settings = c.app.penstock_settings
        self.pulse: Pulse | None = None
        self.stall: Stall | None = None
        self._concurrency = settings.concurrency
        self._database = DatabaseLook(settings.ready_check_s, self._on_away, lambda: None, lambda: None)
        self._timer: Any = None
        c.pulse_step = self

    def start(self, c: Any) -> None:
        """Connected, also after a lost connection."""
        self._database.begin(Submitter(c, c.app.tasks["penstock.probe"]))
        self._timer = c.timer.call_repeatedly(PULSE_S, self._leave_pulse)

    def stop(self, c: Any) -> None:
        """The connection is lost, or the worker ends."""
        del c
        self.pulse = None
        if self._timer is not None:
            self._timer.cancel()

    def _leave_pulse(self) -> None:
        # Not behind jobs, which may take hours: what is known of the database stays as it is meanwhile.
        if len(state.reserved_requests) < self._concurrency:
            self._database.look_if_due()
        self.pulse = Pulse(
            at=time.monotonic(),
            consumed=sum(state.total_count.values()),
            paused_why=None,
            could_work=True,
            database_why=self._database.why(),
        )

    def _on_away(self, reason: str) -> None:
        logger.warning("the database is away, jobs are left to their next runs: %s", reason, extra={"action": "jobs_wait"})


class JobsWatchStep(WatchStep):
    """The watch of such a worker."""

    advice = "jobs that run are begun again with their next runs"

    def describe(self, parent: Any) -> Who:
        return Who(parent.hostname, "maintenance", parent.app.conf.task_default_queue, self.advice)

    def find_watched(self, consumer: Any) -> Watched | None:
        step: Watched | None = getattr(consumer, "pulse_step", None)
        return step

    def make_judge(self, app: Any) -> Judges:
        settings: Settings = app.penstock_settings
        depth = depth_of(settings.model_copy(update={"queue": app.conf.task_default_queue}))
        return Judge(settings.stalled_after_s, settings.batch_time_limit_s, _Presence(depth))

    def find_metrics(self, consumer: Any) -> CollectorRegistry:
        registry = CollectorRegistry()
        registry.register(_State(consumer.pulse_step))
        return registry


class _Presence:
    """A `Depth` that is 0 wherever the broker answers: jobs that wait for a free child are no sign of anything."""

    def __init__(self, depth: Depth) -> None:
        self._depth = depth

    def ask(self) -> int | None:
        """See `Depth`."""
        return None if self._depth.ask() is None else 0

    def close(self) -> None:
        """See `Depth`."""
        self._depth.close()


class _State(Collector):
    def __init__(self, step: PulseStep) -> None:
        self._step = step

    def collect(self) -> Iterator[Metric]:
        """As the step was last seen."""
        yield family("penstock_worker_consuming", self._step.pulse is not None)
        yield family("penstock_worker_stalled", self._step.stall is not None)
