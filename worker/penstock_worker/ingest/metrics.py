"""
The metrics of a worker that ingests, counted in its main process from what the pool's children return with each batch.

What every worker tells beside them, see `penstock_worker.worker_metrics`, whoever serves the registry adds to it.

What is a state, a Collector reads at each scrape, in a thread of the probe port. It takes no lock: the event loop goes on, and
so it reads only what can be had in one go.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Literal, get_args

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from penstock_worker.ingest.batch import Batch, Trigger
from penstock_worker.ingest.lag import Lag
from penstock_worker.ingest.measures import UNKNOWN_TYPE, Measures
from penstock_worker.ingest.outcome import Outcome
from penstock_worker.metrics import counter, family, gauge, histogram, histogram_family

if TYPE_CHECKING:
    from penstock_worker.ingest.step import IngestStep

__all__ = ["End", "IngestMetrics"]

#: How a batch ends: committed, given back because the database is away, died with its process, raised.
End = Literal["written", "away", "lost", "failed"]


class IngestMetrics:
    """
    Args:
        step: What is measured.
        types: The registered record types.
        wall: Seconds since 1970.
    """

    def __init__(self, step: IngestStep, types: Iterable[str], wall: Callable[[], float] = time.time) -> None:
        self.registry = registry = CollectorRegistry()
        self.messages = counter(registry, "penstock_messages_total")
        self.pauses = counter(registry, "penstock_worker_pauses_total")
        self.lost_children = counter(registry, "penstock_worker_lost_children_total")
        self._events = counter(registry, "penstock_events_total")
        self._batches = counter(registry, "penstock_batches_total")
        self._batch_events = histogram(registry, "penstock_batch_events")
        self._batch_seconds = histogram(registry, "penstock_batch_seconds")
        self._stage_seconds = histogram(registry, "penstock_batch_stage_seconds")
        self._last_batch = gauge(registry, "penstock_worker_last_batch_timestamp_seconds")
        self._wall = wall
        #: Replaced, never changed, so that a scrape finds counts and sum of the same batches.
        self.lag = Lag()
        # At 0 before the first one: a rate from nothing to five would be none.
        for pair in product((*types, UNKNOWN_TYPE), Outcome):
            if pair[1] is not Outcome.DROPPED:  # that is the producers' own
                self._events.labels(*pair)
        for pair in product(get_args(Trigger), get_args(End)):
            self._batches.labels(*pair)
        registry.register(_State(self, step))

    def count_written(self, batch: Batch, took_s: float, stage_ms: Mapping[str, float], measures: Measures) -> None:
        """A batch was committed, `took_s` after the pool got it."""
        self.count_end(batch, "written")
        for (type, outcome), count in measures.events.items():
            self._events.labels(type, outcome).inc(count)
        self._batch_events.observe(measures.events.total())
        self._batch_seconds.observe(took_s)
        for stage, ms in stage_ms.items():
            self._stage_seconds.labels(stage).observe(ms / 1000)
        self.lag += measures.lag
        self._last_batch.set(self._wall())

    def count_end(self, batch: Batch, end: End) -> None:
        """A batch has ended in one way or another."""
        self._batches.labels(batch.trigger, end).inc()
        if end == "lost":
            self.lost_children.inc()


class _State(Collector):
    """What the step holds and does at this moment."""

    def __init__(self, metrics: IngestMetrics, step: IngestStep) -> None:
        self._metrics, self._step = metrics, step

    def collect(self) -> Iterator[Metric]:
        """Copies of what the event loop changes are made by one call of C each, which no other thread can interrupt."""
        step, lag, pulse = self._step, self._metrics.lag, self._step.pulse
        ready, running = list(step.ready), [flight.batch for flight in list(step.in_flight)]
        held = step.buffer.messages + sum(len(batch.deliveries) for batch in (*ready, *running))
        yield histogram_family("penstock_commit_lag_seconds", lag.counts, lag.total_s)
        yield family("penstock_worker_paused", step.is_paused)
        yield family("penstock_worker_consuming", pulse is not None and pulse.paused_why is None)
        yield family("penstock_worker_stalled", step.stall is not None)
        yield family("penstock_worker_held_messages", held)
        yield family("penstock_worker_buffered_bytes", step.buffer.size)
        yield family("penstock_worker_batches", {"ready": len(ready), "running": len(running)})
