"""
A service's producers among the service's own metrics; needs the extra `penstock[metrics]`.

    from penstock_producers.metrics import collect_from

    collect_from(producer)  # into prometheus_client's own registry

Each scrape reads `producer.status()`: nothing is counted twice, and nothing is done between scrapes. The names are those of
`penstock_schemas.metrics`, the label `producer` is the producer's name. Producers of one name are told as one: their events and
bytes together, and of the rest the worst.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from weakref import WeakKeyDictionary, ref

from penstock_producers.drops import REASONS
from penstock_producers.producer import Producer
from penstock_producers.status import Status
from penstock_schemas.metrics import METRICS, Metric

try:
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector
except ModuleNotFoundError as exc:
    message = "penstock_producers.metrics needs prometheus_client: pip install 'penstock[metrics]'"
    raise ModuleNotFoundError(message, name=exc.name) from None

__all__ = ["collect_from"]

#: By metric and labels.
_Numbers = dict[tuple[str, tuple[str, ...]], float]

_OURS = [entry for entry in METRICS if entry.process == "producer"]
#: Of these the total grows with the producers; of the others the highest says most.
_ADDED = {
    "penstock_producer_pending_events",
    "penstock_producer_pending_bytes",
    "penstock_producer_spooled_events",
    "penstock_producer_unreceipted_events",
}


def collect_from(producer: Producer, registry: CollectorRegistry = REGISTRY) -> Callable[[], None]:
    """
    Tell a producer's numbers with every scrape of a registry. To say it twice is fine.

    It keeps no producer alive. Of one that is gone the counters stay, as they were at the last scrape that saw it, so that no
    rate goes wrong. A forked child tells its own numbers only, from 0.

    Returns:
        What takes the producer out again, and its numbers with it; of one that is gone they stay.
    """
    with _making:
        collector = _collectors.get(registry)
        if collector is None:
            collector = _Producers()
            registry.register(collector)
            _collectors[registry] = collector
    return collector.follow(producer)


class _Followed:
    """A producer, and how far its counters were when it was last seen."""

    def __init__(self, producer: Producer) -> None:
        self.find = ref(producer)
        self.counted: _Numbers = {}


class _Producers(Collector):
    """All producers of one registry; a registry takes one collector of a name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._followed: list[_Followed] = []
        #: Counters of those that are gone.
        self._past: _Numbers = {}

    def follow(self, producer: Producer) -> Callable[[], None]:
        with self._lock:
            followed = next((one for one in self._followed if one.find() is producer), None)
            if followed is None:
                followed = _Followed(producer)
                self._followed.append(followed)
        return partial(self._leave, followed)

    def describe(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Names alone: registering must not ask the producers."""
        return map(_family, _OURS)

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        with self._lock:
            numbers = self._look()
        for entry in _OURS:
            family = _family(entry)
            for (name, labels), value in numbers.items():
                if name == entry.name:
                    family.add_metric(labels, value)
            yield family

    def renew(self) -> None:
        """In a forked child: what was counted is the parent's, and its lock may be held by a thread that is not here."""
        self._lock = threading.Lock()
        self._past = {}
        for followed in self._followed:
            followed.counted = {}

    def _leave(self, followed: _Followed) -> None:
        with self._lock:
            if followed in self._followed:
                self._followed.remove(followed)

    def _look(self) -> _Numbers:
        numbers: _Numbers = {}
        for followed in [*self._followed]:
            producer = followed.find()
            if producer is None:
                _add(self._past, followed.counted)
                self._followed.remove(followed)
                continue
            status = producer.status()
            followed.counted = _counters_of(status)
            _add(numbers, followed.counted)
            for name, value in _gauges_of(status).items():
                key = (name, (status.name,))
                before = numbers.get(key, 0.0)
                numbers[key] = before + value if name in _ADDED else max(before, value)
        _add(numbers, self._past)
        return numbers


def _add(numbers: _Numbers, more: _Numbers) -> None:
    for key, value in more.items():
        numbers[key] = numbers.get(key, 0.0) + value


def _counters_of(status: Status) -> _Numbers:
    counters: _Numbers = {
        ("penstock_producer_accepted_total", (status.name,)): status.accepted,
        ("penstock_producer_confirmed_total", (status.name,)): status.confirmed,
    }
    # Each reason, also before the first drop: a rate from nothing to five would be none.
    for reason in REASONS:
        counters["penstock_producer_dropped_total", (status.name, reason)] = status.dropped.get(reason, 0)
    return counters


def _gauges_of(status: Status) -> dict[str, float]:
    gauges: dict[str, float] = {
        "penstock_producer_pending_events": status.pending_writes,
        "penstock_producer_pending_bytes": status.pending_bytes,
        "penstock_producer_spooled_events": status.spooled,
        "penstock_producer_unreceipted_events": status.unreceipted,
        "penstock_producer_oldest_pending_seconds": status.oldest_age_s,
        "penstock_producer_breaker_open": status.breaker != "closed",
        "penstock_producer_failures": status.failures,
    }
    if status.sync_latency_s is not None:
        gauges["penstock_producer_sync_seconds"] = status.sync_latency_s
    return gauges


def _family(entry: Metric) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if entry.kind == "counter" else GaugeMetricFamily
    family: CounterMetricFamily | GaugeMetricFamily = kind(entry.name, entry.help, labels=entry.labels)
    return family


_making = threading.Lock()
_collectors: WeakKeyDictionary[CollectorRegistry, _Producers] = WeakKeyDictionary()


def _renew_all() -> None:
    global _making  # noqa: PLW0603  # it is the module's
    _making = threading.Lock()
    for collector in list(_collectors.values()):
        collector.renew()


os.register_at_fork(after_in_child=_renew_all)
