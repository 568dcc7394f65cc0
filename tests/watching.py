"""What lies in deploy/ for Prometheus and Grafana, read as data, and the names in their expressions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from penstock_schemas.metrics import METRICS, metric

__all__ = [
    "CONFIG",
    "DASHBOARDS",
    "RULES",
    "alerts",
    "dashboards",
    "expressions_of",
    "labels_in",
    "labels_of",
    "metrics_in",
    "panels_of",
]

DEPLOY = Path(__file__).parents[1] / "deploy"
CONFIG = DEPLOY / "prometheus" / "prometheus.yml"
RULES = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARDS = DEPLOY / "grafana" / "dashboards"

#: What Prometheus tells of each metric of a kind.
_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}
#: On all that Prometheus scrapes, on the buckets of histograms, and on its own `ALERTS`.
_LABELS_OF_PROMETHEUS = {"job", "instance", "le", "alertname", "alertstate", "severity"}
_METRIC_OF = {entry.name + suffix: entry.name for entry in METRICS for suffix in _SUFFIXES.get(entry.kind, ("",))}


def alerts() -> list[dict[str, Any]]:
    """Every rule of alerts.yml, in its order."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def dashboards() -> dict[str, dict[str, Any]]:
    """By the name of their file."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}


def panels_of(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All that shows something: rows are headings."""
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


def expressions_of(dashboard: dict[str, Any]) -> list[str]:
    """As Prometheus understands them: what Grafana fills in is filled in."""
    found = [target["expr"] for panel in panels_of(dashboard) for target in panel.get("targets", ())]
    return [expression.replace("$__rate_interval", "1m").replace("$__range", "1h") for expression in found]


def metrics_in(expression: str) -> set[str]:
    """
    The metrics of the list that an expression names; `up` and `ALERTS` are Prometheus' own.

    Raises:
        KeyError: A name is not in the list.
    """
    return {_METRIC_OF[name] for name in re.findall(r"\bpenstock_[a-z_]+", re.sub(r'"[^"]*"', '""', expression))}


def labels_in(expression: str) -> set[str]:
    """The labels that an expression matches or groups by, without those that Prometheus itself makes."""
    grouped = re.findall(r"\b(?:by|on|without) \(([^)]*)\)", expression)
    matched = re.findall(r'(\w+)=~?"', expression)
    named = {label.strip() for group in grouped for label in group.split(",")} | set(matched)
    return named - _LABELS_OF_PROMETHEUS - {""}


def labels_of(expression: str) -> set[str]:
    """The labels of the metrics that an expression names, as the list has them."""
    return {label for name in metrics_in(expression) for label in metric(name).labels}
