"""
What makes `penstock up` the only one in its folder, and lets it find what a killed run left behind.

    up.lock    locked by the operating system while a run lives, so it is free again after a kill -9; holds the run's pid
    run.json   every process of the run: name, pid, and when it was started
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil

from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import LOCK_FILE
from penstock_worker.stack.process import ManagedProcess, end_processes, is_alive

__all__ = ["end_recorded", "hold_folder", "record", "write_privately"]

#: How far apart two readings of one start time may be: a clock that is set right moves them.
_START_TOLERANCE_S = 2
_LOCK_WITHIN_S = 0.5


@contextlib.contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """
    Be the only run in this folder.

    Raises:
        ConfigurationError: Another one holds it.
    """
    descriptor = os.open(folder / LOCK_FILE.name, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _lock(descriptor):
            pid = os.read(descriptor, 20).decode().strip() or "unknown"
            raise ConfigurationError(f"`penstock up` already runs in {folder.parent} (pid {pid}): stop it first")
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def record(file: Path, processes: Iterable[ManagedProcess]) -> None:
    """Note the processes that run now, before anything else can happen to this one."""
    entries = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running:
                found = psutil.Process(process.pid)
                entries.append({"name": process.name, "pid": found.pid, "started_at": found.create_time()})
    write_privately(file, json.dumps(entries))


def end_recorded(file: Path, within_s: float = 15) -> list[str]:
    """
    End what is left of a run that was killed, in the order of its record, and return the names of what was ended.

    A pid may belong to somebody else by now, so the start time must be the recorded one. The command line is not asked: in the
    moment after its start a process has none yet.
    """
    ended: list[str] = []
    for entry in _read(file):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process = psutil.Process(entry["pid"])
            if is_alive(process) and abs(process.create_time() - entry["started_at"]) < _START_TOLERANCE_S:
                family = [process, *process.children(recursive=True)]
                process.terminate()
                end_processes(family, within_s)
                ended.append(entry["name"])
    file.unlink(missing_ok=True)
    return ended


def write_privately(file: Path, text: str) -> None:
    """Replace a file in one step, readable by its owner only: it holds passwords or tells whom to signal."""
    draft = file.with_name(f".{file.name}.new")
    draft.touch(mode=0o600)
    draft.write_text(text)
    draft.replace(file)


def _lock(descriptor: int) -> bool:
    """Try for a moment: whoever only asks whether a stack runs here holds the lock while asking."""
    deadline = time.monotonic() + _LOCK_WITHIN_S
    while time.monotonic() < deadline:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.02)
    return False


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(file.read_text())
    except (OSError, ValueError):
        return []
    return entries if isinstance(entries, list) else []
