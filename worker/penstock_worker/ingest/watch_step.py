"""The watch as a part of Celery's worker."""

from __future__ import annotations

import logging
from typing import Any

from celery import bootsteps, signals
from celery.exceptions import WorkerShutdown
from celery.worker import state
from prometheus_client import CollectorRegistry

from penstock_worker.errors import ConfigurationError
from penstock_worker.ingest.depth import depth_of
from penstock_worker.ingest.stall import Judge
from penstock_worker.ingest.watch import Judges, Watch, Watched, Who
from penstock_worker.settings import Settings
from penstock_worker.worker_metrics import WorkerCollector

__all__ = ["WatchStep"]

logger = logging.getLogger(__name__)


class WatchStep(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
    """
    Runs the watch as long as the worker lives, also while it drains its pool at the end.

    It starts before the consumer, whose start returns when the worker ends, and after the pool has forked its first processes.
    """

    requires = ("celery.worker.components:Pool",)
    name = "penstock-watch"
    advice = "its messages go back to the queue, none is lost"

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._watch: Watch | None = None

    def start(self, parent: Any) -> None:
        """Begin to watch."""
        settings: Settings = parent.app.penstock_settings
        watch = Watch(
            settings,
            self.describe(parent),
            lambda: self.find_watched(getattr(parent, "consumer", None)),
            self.make_judge(parent.app),
            is_stopping=lambda: _is_stopping(parent),
        )
        metrics = self.find_metrics(parent.consumer)
        metrics.register(WorkerCollector(lambda: parent.pool, lambda: watch.ready().is_ok))
        try:
            watch.start(metrics)
        except ConfigurationError as exc:
            logger.critical("%s", exc)
            raise WorkerShutdown(2) from exc
        self._watch = watch
        # Later than `stop`, which comes before the pool has drained.
        signals.worker_shutdown.connect(self._end)

    def terminate(self, parent: Any) -> None:
        """A cold end, of which there is no signal."""
        del parent
        self._end()

    def describe(self, parent: Any) -> Who:
        """What is watched."""
        return Who(parent.hostname, "ingest", parent.app.penstock_settings.queue, self.advice)

    def find_watched(self, consumer: Any) -> Watched | None:
        """The step of the consumer that leaves pulses."""
        step: Watched | None = getattr(consumer, "ingest_step", None)
        return step

    def make_judge(self, app: Any) -> Judges:
        """Who decides whether it stands still."""
        settings: Settings = app.penstock_settings
        return Judge(settings.stalled_after_s, settings.batch_time_limit_s, depth_of(settings))

    def find_metrics(self, consumer: Any) -> CollectorRegistry:
        """What that step tells."""
        metrics: CollectorRegistry = consumer.ingest_step.metrics.registry
        return metrics

    def _end(self, **_kwargs: Any) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.end()


def _is_stopping(parent: Any) -> bool:
    """Told by a signal, or by remote control."""
    asked = any(code is not None and code is not False for code in (state.should_stop, state.should_terminate))
    return asked or parent.blueprint.state in (bootsteps.CLOSE, bootsteps.TERMINATE)
