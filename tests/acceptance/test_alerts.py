"""
Faults of a real stack under a real Prometheus: the dashboard shows each, its alert fires, and both clear.

Everything is that of deploy/ but the addresses: intervals, rules, dashboards. How many seconds it took is printed; that it is
less than 30 by design is asserted in tests/unit/test_alerts.py, for how long it takes here depends on the machine.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from penstock_producers import Producer
from penstock_schemas.records.translation import TranslationSession
from penstock_worker.settings import Settings
from penstock_worker.stack.commands import beat_command
from penstock_worker.stack.ports import find_free_port
from tests.acceptance.witness import until
from tests.servers.celery_worker import Failpoints, WorkerProcess, worker_settings
from tests.servers.databases import PostgresServer
from tests.servers.process import LocalProcess
from tests.servers.prometheus import PrometheusServer
from tests.servers.valkey import ValkeyServer
from tests.watching import dashboards, expressions_of, panels_of

pytestmark = pytest.mark.acceptance

#: Panels that have nothing to show here: no backup was made, no record was left incomplete, no event died.
MAY_BE_EMPTY = {"Incomplete records", "Last backup", "Oldest dead letter", "Alerts that fire"}
#: What the overview shows of a stack that is well.
WELL: dict[str, list[float]] = {
    "Workers ready": [2],
    "Workers that answer": [1, 1],
    "Broker": [1],
    "Database": [1],
    "Beat": [1],
}


class Stack:
    """Two workers, of which one runs jobs as well, a beat, the exporter, and the Prometheus that asks them."""

    def __init__(self, database_url: str, broker_url: str, program: str, folder: Path) -> None:
        self.ports = {name: find_free_port() for name in ("first", "second", "beat", "exporter")}
        self._folder, self._settings = folder, Settings(database_url=database_url, broker_url=broker_url)
        self.worker = self._worker("first", worker_only="ingest", lease_s=5)
        jobs = {
            "penstock-worker": [self.ports["first"], self.ports["second"]],
            "penstock-beat": [self.ports["beat"]],
            "penstock-exporter": [self.ports["exporter"]],
        }
        self.prometheus = PrometheusServer(program, folder, jobs)
        exporter = [sys.executable, "-m", "penstock_worker", "exporter", "--port", str(self.ports["exporter"])]
        self.processes: list[LocalProcess] = [
            self.worker,
            self._worker("second", lease_s=5),
            self._process("beat", beat_command(self._settings)),
            self._process("exporter", exporter),
            self.prometheus,
        ]
        self._panels = {panel["title"]: panel for panel in panels_of(dashboards()["overview"])}

    def _worker(self, name: str, **options: object) -> WorkerProcess:
        settings = self._settings
        options |= {"concurrency": 1, "probe_port": self.ports[name]}
        environment = worker_settings(settings.database, settings.broker, Failpoints(self._folder, ""), options)
        return WorkerProcess(name, self._folder, environment)

    def _process(self, name: str, command: list[str]) -> LocalProcess:
        environment = {
            "PENSTOCK_DATABASE_URL": self._settings.database,
            "PENSTOCK_BROKER_URL": self._settings.broker,
            "PENSTOCK_PROBE_PORT": str(self.ports[name]),
        }
        return LocalProcess(name, command, log=self._folder / f"{name}.log", env=environment, cwd=self._folder)

    def shows(self, title: str) -> list[float]:
        """The values of a panel of the overview."""
        (target,) = self._panels[title]["targets"]
        (expression,) = expressions_of({"panels": [{"type": "stat", "targets": [target]}]})
        return sorted(value for _, value in self.prometheus.query(expression))

    def firing(self) -> set[str]:
        return set(self.prometheus.firing())

    def empty_panels(self) -> set[str]:
        """Panels that show nothing, but the producers'."""
        boards = [board for name, board in dashboards().items() if name != "producers"]
        panels = [panel for board in boards for panel in panels_of(board)]
        return {panel["title"] for panel in panels if not any(map(self.prometheus.query, expressions_of({"panels": [panel]})))}


@pytest.fixture
def stack(database_url: str, valkey_url: str, prometheus_program: str, tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(database_url, valkey_url, prometheus_program, tmp_path)
    try:
        for process in stack.processes:
            process.launch()
        yield stack
    finally:
        for process in stack.processes:
            process.clean_up()


class Episode:
    """How long it took from now until panels showed something and alerts fired."""

    def __init__(self, stack: Stack) -> None:
        self._stack, self._began = stack, time.monotonic()
        self.seconds: dict[str, float] = {}

    def wait(self, panels: dict[str, list[float]], alerts: set[str], *, fire: bool) -> None:
        """Until each panel shows these values, and each of these alerts fires, or none of them does."""

        shown: dict[str, list[float]] = {}
        firing: set[str] = set()

        def look() -> bool:
            nonlocal firing
            firing = self._stack.firing()
            shown.update({title: self._stack.shows(title) for title in panels})
            seen = [title for title in panels if shown[title] == panels[title]]
            seen += [name for name in alerts if (name in firing) is fire]
            for name in seen:
                self.seconds.setdefault(name, round(time.monotonic() - self._began, 1))
            return len(seen) == len(panels) + len(alerts)

        try:
            until(look, within_s=200)
        except AssertionError as exc:
            raise AssertionError(f"shown: {shown}, firing: {firing}, seen so far: {self.seconds}") from exc


def test_faults_are_shown_told_and_cleared(
    stack: Stack, database_url: str, valkey_url: str, postgres_server: PostgresServer, valkey_server: ValkeyServer
) -> None:
    stack.prometheus.wait_ready(180)
    Episode(stack).wait(WELL, set(), fire=True)
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE penstock.schedule SET next_run = now() WHERE name IN ('audit', 'disk', 'flush')")
    with Producer(valkey_url) as producer:
        producer.publish(TranslationSession(session_id="s"))
    until(lambda: stack.empty_panels() <= MAY_BE_EMPTY, 200)
    until(lambda: not stack.firing(), 200)

    told = {}
    # A worker is killed, and the database is stopped.
    alerts = {"PenstockWorkerDown", "PenstockDatabaseDown", "PenstockWorkerPaused", "PenstockNoWorker"}
    fault = Episode(stack)
    stack.worker.kill()
    postgres_server.stop()
    fault.wait({"Workers that answer": [0, 1], "Workers ready": [0], "Paused workers": [1], "Database": [0]}, alerts, fire=True)
    said = stack.prometheus.firing()["PenstockWorkerDown"]["annotations"]["summary"]
    postgres_server.start()
    stack.worker.launch()
    end = Episode(stack)
    end.wait({"Workers that answer": [1, 1], "Workers ready": [2], "Paused workers": [0], "Database": [1]}, alerts, fire=False)
    told |= {"worker killed, database stopped": fault.seconds, "both started again": end.seconds}

    # The broker is frozen.
    fault = Episode(stack)
    valkey_server.pause()
    fault.wait({"Broker": [0]}, {"PenstockBrokerDown"}, fire=True)
    end = Episode(stack)
    valkey_server.resume()
    end.wait({"Broker": [1]}, {"PenstockBrokerDown"}, fire=False)
    told |= {"broker frozen": fault.seconds, "it goes on": end.seconds}

    print(json.dumps(told, indent=1))
    assert said == f"Worker 127.0.0.1:{stack.ports['first']} does not answer"
