"""A worker as users run it, with failpoints that a test arms while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psutil

from penstock_worker.settings import Settings
from penstock_worker.stack.commands import worker_command
from tests.servers.process import LocalProcess

__all__ = ["Failpoints", "WorkerProcess", "worker_settings"]


class Failpoints:
    """
    The files by which a test strikes in a worker; see penstock_worker.ingest.failpoints.

    Args:
        actions: `before_commit=wait, message=poison`: what each place does when it is armed.
    """

    def __init__(self, folder: Path, actions: str) -> None:
        self._folder = folder
        self._actions = dict(part.strip().split("=") for part in actions.split(",") if part)

    @property
    def names(self) -> list[str]:
        return list(self._actions)

    @property
    def setting(self) -> str:
        """The value of `PENSTOCK_FAILPOINTS`."""
        return ",".join(f"{name}={action}:{self.path(name)}" for name, action in self._actions.items())

    def path(self, name: str) -> Path:
        return self._folder / f"failpoint-{name}"

    def arm(self, name: str, content: bytes = b"") -> None:
        """One file strikes once, in whichever process comes first; a poison stays."""
        assert name in self._actions, f"{name} has no action in this test"
        self.path(name).write_bytes(content)

    def has_struck(self, name: str) -> bool:
        return not self.path(name).exists()

    def release(self, name: str) -> None:
        """Let whoever waits there go on."""
        self.path(name).with_name(self.path(name).name + ".go").touch()


def worker_settings(
    database_url: str, broker_url: str, failpoints: Failpoints, options: Mapping[str, object]
) -> dict[str, str]:
    """The environment of a worker whose batches are small."""
    settings: dict[str, object] = {
        "database_url": database_url,
        "broker_url": broker_url,
        "failpoints": failpoints.setting,
        "concurrency": 2,
        "batch_max_events": 100,
        **options,
    }
    return {f"PENSTOCK_{name.upper()}": str(value) for name, value in settings.items()}


class WorkerProcess(LocalProcess):
    """One node with its pool children."""

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str]) -> None:
        self.hostname = f"{name}@test"
        only = environment.get("PENSTOCK_WORKER_ONLY")
        log_format = environment.get("PENSTOCK_LOG_FORMAT", "console")
        given = {"concurrency": int(environment["PENSTOCK_CONCURRENCY"]), "worker_only": only, "log_format": log_format}
        settings = Settings.model_validate(given)
        super().__init__(
            name,
            worker_command(settings, self.hostname),
            log=folder / f"{name}.log",
            env=environment,
            cwd=folder,
            ready=lambda process: " ready." in process.recent_log(),
        )

    def restart(self, timeout: float = 120) -> None:  # type: ignore[override]  # as pytest-celery calls it
        """An orderly end, then a start."""
        self.stop(timeout)
        self.start()

    def children(self) -> list[psutil.Process]:
        """The pool's processes that live now."""
        return [child for child in psutil.Process(self.pid).children() if _is_alive(child)]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:  # since it was listed
        return False
