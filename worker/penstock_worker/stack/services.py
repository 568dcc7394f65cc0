"""Workers, beat and Flower as programs: when each of them is ready."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import Settings
from penstock_worker.stack.commands import beat_command, flower_command, service_environment, worker_command
from penstock_worker.stack.flower_login import flower_login
from penstock_worker.stack.ports import LOOPBACK
from penstock_worker.stack.process import ManagedProcess

__all__ = ["Beat", "Flower", "Worker"]

#: How long a worker may take to answer whether it is there.
_PING_S = 0.5
#: One can have the port that is set: the worker that writes events.
_NO_PROBE_PORT = {"PENSTOCK_PROBE_PORT": ""}


class Worker(ManagedProcess):
    """Ready when its control commands answer, which is after its consumer has started."""

    def __init__(self, name: str, settings: Settings, *, log: Path, cwd: Path) -> None:
        own = _NO_PROBE_PORT if settings.worker_only == "maintenance" else {}
        super().__init__(name, log=log, env=service_environment(settings) | own, cwd=cwd)
        self._settings = settings
        node = "penstock-maintenance" if settings.worker_only == "maintenance" else "penstock"
        self.node = f"{node}@{socket.gethostname()}"

    def command(self) -> Sequence[str]:
        return worker_command(self._settings, self.node)

    def is_ready(self) -> bool:
        from penstock_worker.celery_app import celery_for

        with celery_for("penstock-up", self._settings.broker) as app:
            return bool(app.control.ping(destination=[self.node], timeout=_PING_S, limit=1))


class Beat(ManagedProcess):
    """Ready as soon as it runs: nobody waits for its first tick."""

    def __init__(self, settings: Settings, *, log: Path, cwd: Path) -> None:
        super().__init__("beat", log=log, env=service_environment(settings) | _NO_PROBE_PORT, cwd=cwd)
        self._settings = settings

    def command(self) -> Sequence[str]:
        return beat_command(self._settings)


class Flower(ManagedProcess):
    """Ready when its port answers."""

    def __init__(self, settings: Settings, port: int, *, log: Path, cwd: Path) -> None:
        self._login = flower_login(settings, os.environ)
        super().__init__("flower", log=log, env=service_environment(settings) | self._login.environment, cwd=cwd)
        self._settings = settings
        self.port = port

    @property
    def url(self) -> str:
        """With the password where it was made here, because nobody else knows it."""
        return self._login.url(LOOPBACK, self.port)

    def command(self) -> Sequence[str]:
        return flower_command(self._settings, LOOPBACK, self.port)

    def prepare(self) -> None:
        if find_spec("flower") is None:
            raise ConfigurationError('no Flower: pip install "penstock[flower]"')

    def is_ready(self) -> bool:
        try:
            socket.create_connection((LOOPBACK, self.port), 1).close()
        except OSError:
            return False
        return True
