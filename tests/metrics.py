"""Metrics as a scrape shows them, in the form in which the list has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from prometheus_client import Metric

from penstock_schemas.metrics import METRICS, Process

__all__ = ["Shown", "listed", "told"]


class Shown(NamedTuple):
    kind: str
    help: str
    labels: frozenset[str]


def told(families: Iterable[Metric]) -> dict[str, Shown]:
    """By name; each sample has the labels of its family."""
    shown: dict[str, Shown] = {}
    for family in families:
        labels = {frozenset(sample.labels.keys() - {"le"}) for sample in family.samples}
        assert len(labels) == 1, f"{family.name}: {labels}"
        name = family.name + ("_total" if family.type == "counter" else "")
        assert name not in shown, f"{name} twice"
        shown[name] = Shown(family.type, family.documentation, *labels)
    return shown


def listed(process: Process) -> dict[str, Shown]:
    """What a process should tell."""
    return {entry.name: Shown(entry.kind, entry.help, frozenset(entry.labels)) for entry in METRICS if entry.process == process}
