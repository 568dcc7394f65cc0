"""
The whole of Penstock in one folder: servers where none are given, workers, beat and Flower, watched over.

    .penstock/
        stack.json            the addresses and pids, while it runs; `load_settings` reads it
        up.lock, run.json     see `runfile`
        postgres/, valkey/    the embedded servers' data
        log/                  what each process wrote
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from penstock_schemas import Registry
from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import STACK_FILE, Settings, load_settings
from penstock_worker.stack.checks import check_broker, check_database
from penstock_worker.stack.ports import find_free_port, is_port_free
from penstock_worker.stack.postgres import EmbeddedPostgres
from penstock_worker.stack.process import ManagedProcess
from penstock_worker.stack.runfile import end_recorded, hold_folder, record, write_privately
from penstock_worker.stack.services import Beat, Flower, Worker
from penstock_worker.stack.supervisor import Supervisor
from penstock_worker.stack.valkey import EmbeddedValkey
from penstock_worker.store.retention.policy import registry_for

__all__ = ["SERVICES", "Stack", "start_stack"]

#: What runs beside the servers; also the order in which it is stopped.
SERVICES = ("worker", "maintenance", "beat", "flower")

#: Pool children of the worker for maintenance: a job that takes an hour keeps none of the others waiting.
_MAINTENANCE_CONCURRENCY = 2
#: How long the worker has to finish the batches that run, and maintenance its jobs, which go on where they were stopped.
_STOP_S, _MAINTENANCE_STOP_S = 60.0, 10.0


@contextlib.contextmanager
def start_stack(
    folder: Path,
    settings: Settings | None = None,
    *,
    services: Collection[str] = SERVICES,
    say: Callable[[str], None] = print,
) -> Iterator[Stack]:
    """
    Run everything while the block runs.

    Args:
        folder: Holds `.penstock/`; what an earlier run left there, its data included, is taken up again.

        settings: Read from the environment where not given; servers are started for the URLs that they lack.

        services: Which to run. A worker without one for maintenance beside it does both.

        say: Gets a line whenever something happens that a person should know.

    Raises:
        ConfigurationError: Something cannot run, or another stack runs in this folder; nothing is left running.
    """
    base = folder.resolve() / STACK_FILE.parent
    base.mkdir(parents=True, exist_ok=True)
    with hold_folder(base):
        # A stack file that is here now is of a run that was killed: its addresses must not count as given.
        (base / STACK_FILE.name).unlink(missing_ok=True)
        stack = Stack(base, settings or load_settings(), services, say)
        try:
            stack.start()
            yield stack
        finally:
            stack.stop()


class Stack:
    """What `start_stack` runs; `settings` has the addresses of all of it."""

    def __init__(self, base: Path, settings: Settings, services: Collection[str], say: Callable[[str], None]) -> None:
        self.settings = settings
        self.flower_url: str | None = None
        self._base = base
        self._services = services
        self._say = say
        self._servers: list[ManagedProcess] = []
        self._workers: list[ManagedProcess] = []
        self._supervisor = Supervisor(self._restarted, say)

    @property
    def broker_url(self) -> str:
        return self.settings.broker

    @property
    def database_url(self) -> str:
        return self.settings.database

    @property
    def processes(self) -> dict[str, ManagedProcess]:
        """By name, in the order in which they are stopped."""
        return {process.name: process for process in (*self._workers, *self._servers)}

    def start(self) -> None:
        # What a person gave wrongly is said before anything starts.
        flower_port = self._flower_port()
        registry = registry_for(self.settings)
        self._check_given_servers()
        if ended := end_recorded(self._base / "run.json"):
            self._say(f"ended what a killed run had left: {', '.join(ended)}")
        self._start_servers()
        self._migrate(registry)
        self._start_services(flower_port)
        write_privately(self._base / STACK_FILE.name, json.dumps(self.describe(), indent=2) + "\n")
        self._supervisor.start(self.processes.values())

    def stop(self) -> None:
        """
        Stop the worker first, which needs the servers to finish its batches, and the servers last.

        Whatever comes between, another Ctrl-C say, nothing is left running.
        """
        (self._base / STACK_FILE.name).unlink(missing_ok=True)
        self._supervisor.stop()
        try:
            for process in self.processes.values():
                process.stop(_MAINTENANCE_STOP_S if process.name == "maintenance" else _STOP_S)
        finally:
            for process in self.processes.values():
                process.kill()
            (self._base / "run.json").unlink(missing_ok=True)

    def wait(self) -> None:
        """Block until an exception, KeyboardInterrupt as a rule, ends it."""
        threading.Event().wait()

    def describe(self) -> dict[str, Any]:
        """What `stack.json` says."""
        return {
            "broker_url": self.broker_url,
            "database_url": self.database_url,
            "flower_url": self.flower_url,
            "pids": {name: process.pid for name, process in self.processes.items() if process.is_running},
            "logs": str(self._base / "log"),
        }

    def _flower_port(self) -> int:
        port = self.settings.flower_port
        if port is None or "flower" not in self._services:
            return find_free_port()
        if not is_port_free(port):
            raise ConfigurationError(f"port {port} for Flower is busy: set PENSTOCK_FLOWER_PORT to another one")
        return port

    def _check_given_servers(self) -> None:
        if self.settings.database_url:
            check_database(self.settings.database, self.settings.connect_timeout_s)
        if self.settings.broker_url:
            check_broker(self.settings.broker, self.settings.connect_timeout_s)

    def _start_servers(self) -> None:
        urls = {}
        if not self.settings.database_url:
            postgres = EmbeddedPostgres(self._base / "postgres", log=self._log("postgres"))
            self._run(self._servers, postgres)
            urls["database_url"] = postgres.url
        if not self.settings.broker_url:
            valkey = EmbeddedValkey(self._base / "valkey", log=self._log("valkey"))
            self._run(self._servers, valkey)
            urls["broker_url"] = valkey.url
        self.settings = self.settings.model_copy(update=urls)

    def _migrate(self, registry: Registry) -> None:
        from penstock_migrations.packages import parse_locations
        from penstock_migrations.run import upgrade

        upgrade(self.database_url, registry, parse_locations(self.settings.migrations))

    def _start_services(self, flower_port: int) -> None:
        cwd = self._base.parent
        services: list[ManagedProcess] = [
            Worker("worker", self._for_events(), log=self._log("worker"), cwd=cwd),
            Worker("maintenance", self._for_maintenance(), log=self._log("maintenance"), cwd=cwd),
            Beat(self.settings, log=self._log("beat"), cwd=cwd),
            Flower(self.settings, flower_port, log=self._log("flower"), cwd=cwd),
        ]
        chosen = [service for service in services if service.name in self._services]
        for service in chosen:
            # Flower asks the workers what they are when it starts, and not again.
            if isinstance(service, Flower):
                self._wait_ready()
            service.prepare()
            service.launch()
            self._workers.append(service)
            self._record()
        self._wait_ready()
        self.flower_url = next((service.url for service in chosen if isinstance(service, Flower)), None)

    def _for_events(self) -> Settings:
        return self.settings.model_copy(update={"worker_only": "ingest"} if "maintenance" in self._services else {})

    def _for_maintenance(self) -> Settings:
        return self.settings.model_copy(update={"worker_only": "maintenance", "concurrency": _MAINTENANCE_CONCURRENCY})

    def _wait_ready(self) -> None:
        for service in self._workers:
            service.wait_ready()

    def _run(self, where: list[ManagedProcess], process: ManagedProcess) -> None:
        # Listed first: an interrupted start must be stopped too.
        where.append(process)
        process.start()
        self._record()

    def _log(self, name: str) -> Path:
        """A log file for this run; that of the run before is kept beside it."""
        log = self._base / "log" / f"{name}.log"
        if log.exists():
            log.replace(log.with_suffix(".log.old"))
        return log

    def _restarted(self) -> None:
        self._record()
        write_privately(self._base / STACK_FILE.name, json.dumps(self.describe(), indent=2) + "\n")

    def _record(self) -> None:
        record(self._base / "run.json", self.processes.values())
