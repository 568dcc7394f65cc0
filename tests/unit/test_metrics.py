"""
The list of metrics against all that names one: what processes really expose, the page, the dashboards and the alert rules.

What the exporter exposes is compared where its servers are, see tests/integration/test_exporter.py.
"""

from __future__ import annotations

import ast
import json
import re
from collections import deque
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from penstock_producers.metrics import collect_from
from penstock_producers.testing import MemoryProducer
from penstock_schemas.metrics import METRICS, Metric
from penstock_worker.ingest.batch import Batch, Buffer, Limits
from penstock_worker.ingest.lag import Lag
from penstock_worker.ingest.measures import Measures
from penstock_worker.ingest.metrics import IngestMetrics
from penstock_worker.maintenance.pulse import JobsWatchStep
from penstock_worker.maintenance.schedule.watched import WatchedBeat
from penstock_worker.metrics import counter, family, gauge, histogram, histogram_family
from penstock_worker.settings import Settings
from penstock_worker.worker_metrics import WorkerCollector
from tests.metrics import listed, told
from tests.records import Pair

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "metrics.md"
NAMES = {entry.name: entry for entry in METRICS}
#: Labels that Prometheus adds, and histograms.
THEIRS = {"job", "instance", "le", "alertname", "severity", "alertstate"}


# -- the list itself ---------------------------------------------------------------------------------------------------------


def test_names_follow_prometheus_rules() -> None:
    assert len(NAMES) == len(METRICS)
    for entry in METRICS:
        assert re.fullmatch(r"penstock(_[a-z]+)+", entry.name), entry.name
        assert entry.name.endswith("_total") == (entry.kind == "counter"), entry.name
        assert bool(entry.buckets) == (entry.kind == "histogram"), entry.name
        assert list(entry.buckets) == sorted(entry.buckets), entry.name
        assert not THEIRS & set(entry.labels), entry.name
        assert not entry.help.endswith("."), entry.name


# -- what processes expose ---------------------------------------------------------------------------------------------------


def test_a_worker_exposes_what_is_listed() -> None:
    step: Any = SimpleNamespace(
        ready=deque(), in_flight=set(), buffer=Buffer(Limits(1, 1)), pulse=None, stall=None, is_paused=False
    )
    metrics = IngestMetrics(step, ["lab.pair"])
    metrics.registry.register(WorkerCollector(lambda: None, lambda: True))
    metrics.count_written(Batch([], "age"), 0.5, {"commit": 1.0}, Measures(lag=Lag()))
    assert told(metrics.registry.collect()) == listed("worker")


def test_a_worker_for_jobs_exposes_what_the_page_says() -> None:
    consumer = SimpleNamespace(pulse_step=SimpleNamespace(pulse=None, stall=None))
    registry = JobsWatchStep(None).find_metrics(consumer)
    registry.register(WorkerCollector(lambda: None, lambda: True))
    found = told(registry.collect())
    assert found.items() <= listed("worker").items()
    (paragraph,) = [part for part in PAGE.read_text().split("\n\n") if "`--only maintenance`" in part]
    assert set(re.findall(r"`(penstock_\w+)`", paragraph)) == found.keys()


def test_a_beat_exposes_what_is_listed(tmp_path: Path) -> None:
    beat: Any = SimpleNamespace(defaults={"flush": None}, leads=True, find_away=lambda _what: None, cut_off=lambda: None)
    watched = WatchedBeat(Settings(health_folder=tmp_path), beat)
    assert told(watched._registry.collect()) == listed("beat")


def test_a_producer_exposes_what_is_listed() -> None:
    registry = CollectorRegistry()
    with MemoryProducer() as producer:
        collect_from(producer, registry)
        producer.publish(Pair(tenant="a", number=1))
        assert producer.flush(60)
        assert told(registry.collect()) == listed("producer")


def test_a_name_says_what_it_is() -> None:
    """No code makes a metric of another kind or with other labels than the list has."""
    registry = CollectorRegistry()
    with pytest.raises(KeyError):
        counter(registry, "penstock_event_total")
    with pytest.raises(TypeError, match="is a counter"):
        gauge(registry, "penstock_events_total")
    with pytest.raises(TypeError, match="is a gauge"):
        histogram(registry, "penstock_worker_paused")
    with pytest.raises(TypeError, match="is a histogram"):
        family("penstock_batch_seconds", 1)
    with pytest.raises(TypeError, match=r"has the labels \('state',\), not \(\)"):
        family("penstock_dead_letters", 1)
    with pytest.raises(TypeError, match="not"):
        family("penstock_incomplete_records", {"stale": 1})
    with pytest.raises(ValueError, match="shorter"):
        histogram_family("penstock_commit_lag_seconds", [1, 2], 0.5)


def test_metrics_are_made_in_two_places_only() -> None:
    """Elsewhere nothing of prometheus_client that takes a name may be imported."""
    makers = {"Counter", "Gauge", "Histogram", "Summary", "Info", "Enum", "prometheus_client"}
    found = {
        str(path.relative_to(ROOT))
        for path in sources()
        for name in imported_from(path, "prometheus_client")
        if name in makers or name.endswith("MetricFamily")
    }
    assert found == {"producers/penstock_producers/metrics.py", "worker/penstock_worker/metrics.py"}


def test_every_metric_is_told_by_somebody() -> None:
    words = {node.value for path in sources() for node in parsed(path) if isinstance(node, ast.Constant)}
    assert NAMES.keys() - words == set()


def sources() -> Iterator[Path]:
    for folder in ("producers", "worker"):
        yield from (ROOT / folder).rglob("*.py")


@cache
def parsed(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


def imported_from(path: Path, package: str) -> Iterator[str]:
    """Names that a module imports from a package and its parts; the package's own where it is imported as a whole."""
    for node in parsed(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == package:
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (package for alias in node.names if alias.name.partition(".")[0] == package)


# -- the page ----------------------------------------------------------------------------------------------------------------


def test_the_page_has_every_metric_with_its_kind_and_labels() -> None:
    assert list(rows_of_page(PAGE.read_text())) == [as_row(entry) for entry in METRICS]


def rows_of_page(page: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    for name, kind, labels in re.findall(r"^\| `(penstock_\w+)` \| (\w+) \| ([^|]*) \|", page, flags=re.MULTILINE):
        yield name, kind, tuple(re.findall(r"`(\w+)`", labels))


def as_row(entry: Metric) -> tuple[str, str, tuple[str, ...]]:
    return entry.name, entry.kind, entry.labels


# -- dashboards and rules ----------------------------------------------------------------------------------------------------


def deployed() -> list[Path]:
    """Every file that asks Prometheus for something."""
    folders = [(ROOT / "deploy" / "grafana").rglob("*.json"), (ROOT / "deploy" / "prometheus").rglob("*.y*ml")]
    return sorted(path for files in folders for path in files)


def test_there_are_dashboards_and_rules() -> None:
    assert {path.suffix for path in deployed()} >= {".json", ".yml"}


@pytest.mark.parametrize("path", deployed(), ids=lambda path: path.name)
def test_what_is_asked_for_is_exposed(path: Path) -> None:
    assert [complaint for query in queries(path) for complaint in complaints(query)] == []


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("rate(penstock_event_total[1m])", ["no penstock_event_total"]),
        ("penstock_commit_lag_seconds", ["no penstock_commit_lag_seconds"]),
        ("penstock_commit_lag_seconds_buckets", ["no penstock_commit_lag_seconds_buckets"]),
        ("penstock_worker_paused_count", ["no penstock_worker_paused_count"]),
        ('penstock_events_total{outcome="dead", kind="x"}', ["penstock_events_total has no kind"]),
        ("sum by (typ) (penstock_events_total)", ["nothing has typ"]),
        ("sum by (le) (rate(penstock_commit_lag_seconds_bucket[2m]))", []),
        ('penstock_events_total{outcome=~"dead|held"} / on (instance) group_left (version) penstock_build_info', []),
    ],
)
def test_a_misspelt_query_is_noticed(query: str, complaint: list[str]) -> None:
    assert list(complaints(query)) == complaint


def queries(path: Path) -> Iterator[str]:
    """All texts of a file that may be queries: in prose, too, a metric must be one that is."""
    content = json.loads(path.read_text()) if path.suffix == ".json" else yaml.safe_load(path.read_text())
    yield from (text for text in texts(content) if "penstock_" in text)


def texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        yield from texts([*content.keys(), *content.values()])
    elif isinstance(content, list):
        for part in content:
            yield from texts(part)


def complaints(query: str) -> Iterator[str]:
    """What it asks for, and nobody tells."""
    for name, matchers in re.findall(r"\b(penstock_\w+)\b(?!\.\w)(?:\{([^}]*)\})?", query):  # with a dot it is a package
        entry = exposed().get(name)
        if entry is None:
            yield f"no {name}"
            continue
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", matchers):
            if label not in {*entry.labels, *THEIRS}:
                yield f"{name} has no {label}"
    every = THEIRS.union(*(entry.labels for entry in METRICS))
    for labels in re.findall(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)", query):
        yield from (f"nothing has {label}" for label in re.findall(r"\w+", labels) if label not in every)


def exposed() -> dict[str, Metric]:
    """By the names that Prometheus shows."""
    parts = {"histogram": ("_bucket", "_sum", "_count")}
    return {entry.name + part: entry for entry in METRICS for part in parts.get(entry.kind, ("",))}
