"""The rules of alerts.yml: Prometheus takes them, each is tried, and each names what to do and where that is written."""

from __future__ import annotations

import json
import re
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
import typer
import yaml

from penstock_worker.cli import app
from penstock_worker.exporter.asked import KEEP_S, WAIT_S
from tests.unit.test_docs import problem_with
from tests.watching import CONFIG, RULES, alerts, labels_in, labels_of, metrics_in

CASES = sorted((RULES.parent / "tests").glob("*_test.yml"))
PAGE = Path(__file__).parents[2] / "docs" / "alerts.md"

#: Who or what is down: the issue asks for these within 30 s.
DOWN = {
    "PenstockNoWorker",
    "PenstockWorkerDown",
    "PenstockFewerWorkers",
    "PenstockWorkerPaused",
    "PenstockWorkerStalled",
    "PenstockBrokerDown",
    "PenstockDatabaseDown",
    "PenstockExporterDown",
    "PenstockMaintenanceWorkerDown",
    "PenstockBeatDown",
    "PenstockProducerCannotSend",
}
WITHIN_S = 30

each_alert = pytest.mark.parametrize("alert", alerts(), ids=lambda rule: rule["alert"])


@pytest.mark.parametrize(
    "words", [["check", "rules", str(RULES)], ["check", "config", str(CONFIG)]], ids=lambda words: words[1]
)
def test_prometheus_takes_them(promtool: str, words: list[str]) -> None:
    done = subprocess.run([promtool, *words], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_the_cases(promtool: str, cases: Path) -> None:
    done = subprocess.run([promtool, "test", "rules", str(cases)], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def pod(component: str, port: int, **changes: str) -> dict:
    """What Prometheus knows of a port of a pod of deploy/kubernetes, before any rule."""
    told = {
        "label_app_kubernetes_io_name": "penstock",
        "label_app_kubernetes_io_component": component,
        "annotation_prometheus_io_scrape": "true",
        "annotation_prometheus_io_port": str(port),
        "container_port_number": str(port),
        "phase": "Running",
        "name": f"{component}-5d8f",
        **changes,
    }
    return {"targets": [f"10.0.0.1:{port}"], "labels": {f"__meta_kubernetes_pod_{name}": text for name, text in told.items()}}


def test_pods_get_the_jobs_that_rules_know(promtool: str, tmp_path: Path) -> None:
    """By the relabelling alone: Debian's Prometheus knows no Kubernetes."""
    config = yaml.safe_load((CONFIG.parent / "kubernetes.yml").read_text())
    (job,) = config["scrape_configs"]
    del job["kubernetes_sd_configs"]
    jobs = {"worker": 9187, "maintenance": 9187, "beat": 9187, "exporter": 9188}
    others = [
        pod("flower", 5555, annotation_prometheus_io_scrape=""),
        pod("worker", 9187, name="other-port", container_port_number="8080"),
        pod("worker", 9187, name="ended", phase="Succeeded"),
        pod("shop", 9187, label_app_kubernetes_io_name="shop"),
    ]
    job["static_configs"] = [*(pod(component, port) for component, port in jobs.items()), *others]
    file = tmp_path / "prometheus.yml"
    file.write_text(yaml.safe_dump(config | {"rule_files": [str(RULES)]}))
    words = [promtool, "check", "service-discovery", "--timeout=1s", str(file), "penstock"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [each["labels"] for each in json.loads(done.stdout) if each["labels"]]
    expected = {(f"penstock-{component}", f"{component}-5d8f", f"10.0.0.1:{port}") for component, port in jobs.items()}
    assert {(labels["job"], labels["instance"], labels["__address__"]) for labels in found} == expected
    named = {job["job_name"] for job in yaml.safe_load(CONFIG.read_text())["scrape_configs"]}
    assert named == {job for job, _, _ in expected}


def test_each_alert_has_a_case() -> None:
    """In which it is quiet, fires, and is quiet again."""
    told = defaultdict(set)
    for case in (case for path in CASES for case in yaml.safe_load(path.read_text())["tests"]):
        for moment in case.get("alert_rule_test", ()):
            told[moment["alertname"]].add(bool(moment.get("exp_alerts")))
    assert told == {rule["alert"]: {True, False} for rule in alerts()}


@each_alert
def test_an_alert_says_what_to_do(alert: dict) -> None:
    notes, name = alert["annotations"], alert["alert"]
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    assert notes.keys() == {"summary", "description", "runbook"}
    assert notes["runbook"].endswith(f". docs/alerts.md#{name.lower()}")
    assert f"\n### {name}\n" in PAGE.read_text()


def test_the_page_names_no_other() -> None:
    assert re.findall(r"^### (\w+)$", PAGE.read_text(), re.MULTILINE) == [rule["alert"] for rule in alerts()]
    named = set(re.findall(r"\(#(penstock\w+)\)", PAGE.read_text()))
    assert named <= {rule["alert"].lower() for rule in alerts()}


@each_alert
def test_its_commands_exist(alert: dict) -> None:
    root = typer.main.get_command(app)
    commands = re.findall(r"`penstock ([^`{]+)", alert["annotations"]["runbook"])
    assert [problem for words in commands if (problem := problem_with(root, words.split()))] == []


@each_alert
def test_its_metrics_are_told(alert: dict) -> None:
    assert metrics_in(alert["expr"]) or re.search(r"\bup\{", alert["expr"])
    assert labels_in(alert["expr"]) <= labels_of(alert["expr"])


def test_who_is_down_is_told_in_time() -> None:
    """
    By design: until the next scrape, for as long as the exporter keeps an answer and waits for one, until the next evaluation,
    and for as long as the rule says; an evaluation that comes a moment too early for that is followed by one more.
    """
    settings = yaml.safe_load(CONFIG.read_text())["global"]
    scrape_s, evaluation_s = (float(settings[name].removesuffix("s")) for name in ("scrape_interval", "evaluation_interval"))
    assert float(settings["scrape_timeout"].removesuffix("s")) > WAIT_S
    look_s = {rule["alert"]: (KEEP_S + WAIT_S) * ("penstock_exporter_up" in rule["expr"]) for rule in alerts()}
    for_s = {rule["alert"]: float(rule.get("for", "0s").removesuffix("s")) for rule in alerts() if rule["alert"] in DOWN}
    late = {
        name: after
        for name, seconds in for_s.items()
        if (after := scrape_s + look_s[name] + 2 * evaluation_s + seconds) > WITHIN_S
    }
    assert for_s.keys() == DOWN
    assert late == {}
