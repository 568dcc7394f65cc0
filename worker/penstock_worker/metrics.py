"""
From the list of metrics (`penstock_schemas.metrics`) to prometheus_client's objects: a name alone says the rest.

What is counted where it happens is a `counter`, a `gauge` or a `histogram` of a registry. What is looked up at each scrape is a
`family`, made anew by a Collector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from penstock_schemas.metrics import Kind, Metric, metric

__all__ = ["counter", "family", "gauge", "histogram", "histogram_family"]

# Each counter would come with a second series that says when it was made: `penstock_worker_started_timestamp_seconds` does.
disable_created_metrics()  # type: ignore[no-untyped-call]


def counter(registry: CollectorRegistry, name: str) -> Counter:
    """
    The counter of that name, in a registry.

    Raises:
        KeyError: The list has no such metric.
        TypeError: It is none of this kind.
    """
    entry = _entry(name, "counter")
    return Counter(entry.name, entry.help, entry.labels, registry=registry)


def gauge(registry: CollectorRegistry, name: str) -> Gauge:
    """The gauge of that name, see `counter`."""
    entry = _entry(name, "gauge")
    return Gauge(entry.name, entry.help, entry.labels, registry=registry)


def histogram(registry: CollectorRegistry, name: str) -> Histogram:
    """The histogram of that name, see `counter`."""
    entry = _entry(name, "histogram")
    return Histogram(entry.name, entry.help, entry.labels, registry=registry, buckets=entry.buckets)


def family(
    name: str, values: float | Mapping[str, float] | Mapping[tuple[str, ...], float]
) -> GaugeMetricFamily | CounterMetricFamily:
    """
    A gauge or a counter as it is at this moment.

        family("penstock_beat_leader", 1)
        family("penstock_dead_letters", {"dead": 3, "held": 0})
        family("penstock_incomplete_records", {("translation.session", "stale"): 2})

    Args:
        name: The list says what it is.
        values: By the values of its labels, in the list's order; a number where it has none.

    Raises:
        KeyError: The list has no such metric.
        TypeError: It is a histogram, or has other labels.
    """
    entry = _entry(name, "counter", "gauge")
    kind = CounterMetricFamily if entry.kind == "counter" else GaugeMetricFamily
    made: GaugeMetricFamily | CounterMetricFamily = kind(entry.name, entry.help, labels=entry.labels)
    for labels, value in values.items() if isinstance(values, Mapping) else [((), values)]:
        own = (labels,) if isinstance(labels, str) else labels
        if len(own) != len(entry.labels):
            raise TypeError(f"{name} has the labels {entry.labels}, not {own}")
        made.add_metric(own, value)
    return made


def histogram_family(name: str, counts: Sequence[int], total: float) -> HistogramMetricFamily:
    """
    A histogram without labels as it is at this moment.

    Args:
        name: One of the list's.
        counts: Observations up to each of its bounds and over the one before; one more for those above all.
        total: The sum of what was observed.
    """
    entry = _entry(name, "histogram")
    bounds = [*map(str, entry.buckets), "+Inf"]
    return HistogramMetricFamily(entry.name, entry.help, list(zip(bounds, accumulate(counts), strict=True)), total)


def _entry(name: str, *kinds: Kind) -> Metric:
    entry = metric(name)
    if entry.kind not in kinds:
        raise TypeError(f"{name} is a {entry.kind}")
    return entry
