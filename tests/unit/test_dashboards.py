"""The dashboards: Grafana can read them, Prometheus their expressions, and together with the alerts they show every metric."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from penstock_schemas.metrics import METRICS
from tests.watching import DASHBOARDS, alerts, dashboards, expressions_of, labels_in, labels_of, metrics_in, panels_of

ALL = dashboards()
DOCS = Path(__file__).parents[2] / "docs"

each_dashboard = pytest.mark.parametrize("dashboard", ALL.values(), ids=ALL)

#: Says which release runs: it is in a table, and nothing follows from it.
NOT_NEEDED = {"penstock_build_info"}


def test_they_are_told_apart() -> None:
    assert len({dashboard["uid"] for dashboard in ALL.values()}) == len({board["title"] for board in ALL.values()}) == len(ALL)
    assert {f"penstock-{name}" for name in ALL} == {dashboard["uid"] for dashboard in ALL.values()}


@each_dashboard
def test_panels_are_told_apart_and_say_what_they_show(dashboard: dict) -> None:
    panels = dashboard["panels"]
    titles = [panel["title"] for panel in panels]
    assert len({panel["id"] for panel in panels}) == len(set(titles)) == len(panels)
    for panel in panels_of(dashboard):
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@each_dashboard
def test_panels_do_not_overlap(dashboard: dict) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_prometheus_reads_every_expression(promtool: str, tmp_path: Path) -> None:
    """Each as a rule that records something: those are checked without a server."""
    expressions = [expression for dashboard in ALL.values() for expression in expressions_of(dashboard)]
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(expressions)]
    file = tmp_path / "panels.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", str(file)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(expressions)} rules found" in done.stdout


@each_dashboard
def test_labels_are_those_of_its_metrics(dashboard: dict) -> None:
    for target in (target for panel in panels_of(dashboard) for target in panel["targets"]):
        shown = set(re.findall(r"{{(\w+)}}", target.get("legendFormat", ""))) - {"instance", "le"}
        assert shown | labels_in(target["expr"]) <= labels_of(target["expr"]), target["expr"]


def test_every_metric_is_shown_or_watched() -> None:
    shown = {name for dashboard in ALL.values() for expression in expressions_of(dashboard) for name in metrics_in(expression)}
    watched = {name for rule in alerts() for name in metrics_in(rule["expr"])}
    assert {entry.name for entry in METRICS} - shown - watched <= NOT_NEEDED


def test_only_counters_are_rated() -> None:
    """The rate of a gauge is nonsense, and so is a counter as it is, but for a total that a person reads."""
    counters = {entry.name for entry in METRICS if entry.kind != "gauge"}
    for expression in (each for dashboard in ALL.values() for each in expressions_of(dashboard)):
        rated = set(re.findall(r"(?:rate|increase)\((penstock_[a-z_]+?)(?:_bucket|_sum|_count)?[\[{]", expression))
        assert rated <= counters, expression


@each_dashboard
def test_its_links_lead_somewhere(dashboard: dict) -> None:
    for page, heading in re.findall(r"docs/(\w+\.md)(?:#([\w-]+))?", json.dumps(dashboard)):
        headings = re.findall(r"^#+ (.+)$", (DOCS / page).read_text(), re.MULTILINE)
        assert not heading or heading in [text.lower().replace(" ", "-") for text in headings]


def test_grafana_finds_them() -> None:
    """What is mounted where deploy/compose.yml says."""
    folder = DASHBOARDS.parent / "provisioning"
    source, provider = (
        yaml.safe_load((folder / name).read_text()) for name in ("datasources/prometheus.yml", "dashboards/penstock.yml")
    )
    mounts = yaml.safe_load((DASHBOARDS.parents[1] / "compose.yml").read_text())["services"]["grafana"]["volumes"]
    assert f"./grafana/dashboards:{provider['providers'][0]['options']['path']}:ro" in mounts
    assert [each["url"] for each in source["datasources"]] == ["http://prometheus:9090"]
