"""
How a worker or a beat is, in a small file: readable also when its event loop hangs and answers nobody.

It writes `<health folder>/<name>.json` every few seconds and when something changes, and removes it at an orderly end. What a
killed one left behind is passed over; a process that lives and does not write any more is frozen.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

__all__ = ["STALE_AFTER_S", "WRITE_EVERY_S", "Does", "Health", "read_health", "remove_health", "write_health"]

#: What a process is for: one that writes events, and perhaps runs jobs too, or one that runs jobs only, or starts them.
Does = Literal["ingest", "maintenance", "beat"]

WRITE_EVERY_S = 5.0
#: Seconds after which a file says nothing of the present.
STALE_AFTER_S = 6 * WRITE_EVERY_S


@dataclass(frozen=True, slots=True)
class Health:
    """
    What a process says of itself. Times are seconds since 1970, by its own clock.

    Args:
        worker: Its name; a beat's too.
        queue: From which it takes what it does; that of events, for a beat.
        is_consuming: It takes messages; not while it starts, stops, reconnects or is paused.
        paused_why: What it waits for before it writes again: the database, usually.
        is_stalled: It stands still and should not; `stalled_since` and `stalled_why` say more.
        consumed_messages: Since it started; jobs, where it runs these only; runs that a beat has sent.
        does: What it is for.
        not_ready: Why it is not ready, see `penstock_worker.ingest.readiness`; nothing if it is.
        database_why: What is wrong with the database, as far as it knows.
        pid_since: When its process began, as the system writes it: a process id is given again after a while, or a reboot.
    """

    worker: str
    queue: str
    started_at: float
    written_at: float
    is_consuming: bool
    paused_why: str | None
    consumed_messages: int
    is_stalled: bool = False
    stalled_since: float | None = None
    stalled_why: str | None = None
    does: Does = "ingest"
    not_ready: tuple[str, ...] = ()
    database_why: str | None = None
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    pid_since: str | None = field(default_factory=lambda: _since(os.getpid()))

    def trouble(self, now: float) -> str | None:
        """What is wrong with it, or None."""
        if now - self.written_at > STALE_AFTER_S:
            return f"its process has not moved for {now - self.written_at:.0f} s: it is frozen, or was killed on another host"
        return self.stalled_why if self.is_stalled else None


def write_health(folder: Path, health: Health) -> None:
    """
    Replace the worker's file; a reader sees the old one or the new one.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = _file(folder, health.worker)
    draft = file.with_suffix(".new")
    draft.write_text(json.dumps(asdict(health)))
    draft.replace(file)


def remove_health(folder: Path, worker: str) -> None:
    """Forget a worker that has ended."""
    with suppress(OSError):
        _file(folder, worker).unlink()


def read_health(folder: Path, queue: str) -> list[Health]:
    """
    Processes that run, or of which nobody here can say that they do not, by name.

    Args:
        folder: Where they write it.
        queue: The one of events. Who ingests from another queue is passed over; jobs are for all queues.
    """
    found = [health for file in sorted(folder.glob("*.json")) if (health := _read(file)) is not None]
    ours = [health for health in found if health.does != "ingest" or health.queue == queue]
    return [health for health in ours if not _is_gone(health)]


def _read(file: Path) -> Health | None:
    try:
        values = json.loads(file.read_text())
        found = {part.name: values[part.name] for part in fields(Health)}
        return Health(**found | {"not_ready": tuple(found["not_ready"])})
    except (OSError, ValueError, LookupError, TypeError):
        return None  # removed meanwhile, or of another version


def _is_gone(health: Health) -> bool:
    if health.host != socket.gethostname():
        return time.time() - health.written_at > 100 * STALE_AFTER_S
    try:
        os.kill(health.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    since = _since(health.pid)
    return since is not None and since != health.pid_since


def _since(pid: int) -> str | None:
    """When a process began, in ticks since the system did; None where the system does not say."""
    try:
        # The name, which may have blanks, ends with the last parenthesis; the 22nd field is the 20th after it.
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _file(folder: Path, worker: str) -> Path:
    return folder / (re.sub(r"[^\w.@-]", "_", worker) + ".json")
