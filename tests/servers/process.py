"""Processes that a test may kill, freeze and restart."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from penstock_worker.stack.process import ManagedProcess, end_processes


class Controls(ManagedProcess):
    """
    What tests do to a process beyond starting and stopping it.

    Starts and stops may take long: on a slow machine a server that is killed because it was slow to end would lose data, and a
    test would take that for a loss.
    """

    def start(self, ready_within_s: float = 180) -> None:
        super().start(ready_within_s)

    def stop(self, within_s: float = 120) -> None:
        super().stop(within_s)

    def logs(self) -> str:
        """Everything it wrote, over all its starts."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def restart(self) -> None:
        """An orderly stop, then a start that waits until it answers."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it and all that it started: connections stay open and nobody answers."""
        self._signal_all(signal.SIGSTOP)
        self.wait_until(lambda: all(_is_stopped(process) for process in self.processes()), within_s=60)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    def processes(self) -> list[psutil.Process]:
        """The process and all its descendants."""
        if not self.is_running:
            return []
        process = psutil.Process(self.pid)
        return [process, *process.children(recursive=True)]

    def clean_up(self) -> None:
        """End it whatever state a test left it in."""
        ManagedProcess.kill(self)

    def _signal_all(self, number: int) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)


class LocalProcess(Controls):
    """
    Any command as a process, with the methods that pytest-celery calls on its containers.

    Args:
        argv: The command.

        ready: Asked until it is true; it gets this object. Running is enough where it is not given.

        config: What pytest-celery hands to others as this node's `celeryconfig`.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        ready: Callable[[LocalProcess], bool] | None = None,
        config: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(name, log=log, env=env, cwd=cwd)
        self._argv = list(argv)
        self._ready = ready
        self._config = dict(config or {})
        self._orphans: list[psutil.Process] = []

    def command(self) -> Sequence[str]:
        return self._argv

    def is_ready(self) -> bool:
        return self.is_running if self._ready is None else self._ready(self)

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """
        Send a signal to the process itself and wait until it is gone; what it started is left to itself.

        That is what a crash does: the pool children of a killed worker live on until they see it.
        """
        self._orphans += self.processes()[1:]
        self.send_signal(_number(signal))
        assert self._process is not None
        self._process.wait(120)

    def clean_up(self) -> None:
        super().clean_up()
        end_processes(self._orphans, within_s=0)

    @property
    def id(self) -> str:
        return f"{self.pid:012d}"

    @property
    def status(self) -> str:
        return "running" if self.is_running else "exited"

    @property
    def celeryconfig(self) -> dict[str, object]:
        return dict(self._config)

    def ready(self, timeout: float = 60) -> bool:
        self.wait_ready(timeout)
        return True

    def reload(self) -> None:
        """Nothing: the state is looked up at every question."""

    def teardown(self) -> None:
        self.clean_up()


def _is_stopped(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE))
    return True


def _number(name: str | int) -> int:
    return signal.Signals[name] if isinstance(name, str) else name
