"""
A program that runs beside this one until it is told to stop.

Every program of the stack is one `ManagedProcess`: servers, worker, beat and Flower. Each gets a session of its own, so
that Ctrl-C in a terminal reaches only `penstock up`, which then stops them in the right order.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from penstock_worker.errors import ConfigurationError

__all__ = ["ManagedProcess", "end_leftovers", "end_processes", "is_alive"]

_POLL_S = 0.02


class ManagedProcess:
    """
    Starts, watches and stops one program.

    Subclasses give `command()`, and where it matters `prepare()`, `is_ready()` and `stop_signal`.
    """

    #: What asks the program to finish its work and go.
    stop_signal = signal.SIGTERM

    def __init__(self, name: str, *, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        self.name = name
        self.log = log
        self._env = dict(env or {})
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def command(self) -> Sequence[str]:
        """The program and its arguments; asked at every start."""
        raise NotImplementedError

    def prepare(self) -> None:
        """What must be there before the program starts; safe to run again."""

    def is_ready(self) -> bool:
        """Whether the program answers; it may take a fraction of a second to find out."""
        return self.is_running

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative is the signal that ended it."""
        return None if self._process is None else self._process.poll()

    def start(self, ready_within_s: float = 60) -> None:
        """
        Start the program and wait until it answers.

        Raises:
            ConfigurationError: It ended or did not answer in time; the message has its last words.
        """
        if self.is_running:
            return
        self.prepare()
        self.launch()
        self.wait_ready(ready_within_s)

    def launch(self) -> None:
        """Start the program without waiting for it."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        # PostgreSQL quotes rows in its log.
        self.log.touch(mode=0o600)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                list(self.command()),
                env={**os.environ, **self._env},
                cwd=self._cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self, within_s: float = 60) -> None:
        try:
            self.wait_until(lambda: not self.is_running or self.is_ready(), within_s)
            if self.is_running:
                return
            problem = f"ended with code {self.exit_code}"
        except TimeoutError:
            problem = f"did not answer within {within_s:.0f} s"
            self.kill()
        raise ConfigurationError(f"{self.name} {problem}: {self.last_words() or 'it said nothing'} (all of it: {self.log})")

    def wait_until(self, holds: Callable[[], bool], within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name}: not within {within_s:.0f} s")
            time.sleep(_POLL_S)

    def recent_log(self) -> str:
        """What the program wrote since its last start."""
        try:
            with self.log.open("rb") as log:
                log.seek(self._log_start)
                return log.read().decode(errors="replace")
        except OSError:
            return ""

    def last_words(self) -> str:
        """The last line that the program wrote."""
        return self.recent_log().strip().rpartition("\n")[2].strip()

    def send_signal(self, number: int) -> None:
        """Send a signal to the program itself, not to what it started; nothing where it has ended."""
        if self.is_running:
            os.kill(self.pid, number)

    def stop(self, within_s: float = 30) -> None:
        """Ask the program to end, and end it and all that it started when it does not."""
        if self._process is None:
            return
        family = self._family()
        self.send_signal(self.stop_signal)
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
        end_processes(family)

    def kill(self) -> None:
        """End the program and all that it started, at once, and wait until all are gone."""
        if self._process is None:
            return
        family = self._family()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        end_processes(family, within_s=0)

    def _family(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return list(psutil.Process(self.pid).children(recursive=True)) if self.is_running else []
        return []


def is_alive(process: psutil.Process) -> bool:
    """
    Whether this very process still runs; a pid that was given to another program meanwhile does not count.

    One that has ended and was not yet collected does not count either: where pid 1 collects nothing, as in many a
    container, it stays in the list for ever.
    """
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def end_processes(processes: Sequence[psutil.Process], within_s: float = 5) -> None:
    """Wait until these have ended, and kill those that have not."""
    left = _wait(processes, within_s)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _wait(left, within_s=5)


def _wait(processes: Sequence[psutil.Process], within_s: float) -> list[psutil.Process]:
    deadline = time.monotonic() + within_s
    while (left := [process for process in processes if is_alive(process)]) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return left


def end_leftovers(program: Path, folder: Path, number: int = signal.SIGTERM, within_s: float = 20) -> None:
    """
    End every process of this program that works in this folder: what a killed run left behind.

    Servers make their data folder their working folder, so this pair belongs to nobody else.
    """
    wanted = (str(program), str(folder))
    left = [process for process in psutil.process_iter(["exe", "cwd"]) if (process.info["exe"], process.info["cwd"]) == wanted]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    end_processes(left, within_s)
