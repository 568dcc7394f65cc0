"""
Named places where a test may strike, off in production.

`PENSTOCK_FAILPOINTS` holds `name=action:path` triples, separated by commas. A failpoint strikes when its process can remove the
file at `path`: so a test arms it while the process runs, and one file strikes once. Actions:

| action      | what happens                                                  |
|-------------|---------------------------------------------------------------|
| kill        | SIGKILL to this process                                       |
| kill_parent | SIGKILL to the parent, so to the worker of a pool child       |
| wait        | this process stops until the file `path`.go exists            |
| poison      | SIGKILL to this process if the subject holds the file's bytes; the file stays |
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from penstock_worker.errors import ConfigurationError
from penstock_worker.ingest.message import RawMessage, unwrap

__all__ = ["configure", "hit"]

Name = Literal["message", "after_copy", "before_commit", "after_commit", "before_ack"]
_ACTIONS = ("kill", "kill_parent", "wait", "poison")
_armed: dict[str, tuple[str, Path]] = {}


def configure(spec: str) -> None:
    """
    Set the process's failpoints; an empty text switches all off.

    Raises:
        ConfigurationError: The text names an unknown failpoint or action.
    """
    _armed.clear()
    for part in filter(None, spec.split(",")):
        name, _, rest = part.partition("=")
        action, _, path = rest.partition(":")
        if name not in get_args(Name) or action not in _ACTIONS or not path:
            raise ConfigurationError(f"PENSTOCK_FAILPOINTS: {part!r} is not name=action:path with a known name and action")
        _armed[name] = (action, Path(path))


def hit(name: Name, subjects: Sequence[RawMessage] = ()) -> None:
    """Strike, if a test has armed this place. `subjects` are the messages that a poison looks at."""
    if not _armed or name not in _armed:
        return
    action, path = _armed[name]
    if action == "poison":
        _poison(path, subjects)
    elif _disarm(path):
        _strike(action, path)


def _poison(path: Path, subjects: Sequence[RawMessage]) -> None:
    if path.exists():
        poison = path.read_bytes()
        bodies = (message.body for subject in subjects if (message := unwrap(subject)))
        if any(poison in body for body in bodies):
            os.kill(os.getpid(), signal.SIGKILL)


def _disarm(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _strike(action: str, path: Path) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "kill_parent":
        os.kill(os.getppid(), signal.SIGKILL)
    else:
        go = path.with_name(path.name + ".go")
        while not go.exists():
            time.sleep(0.01)
