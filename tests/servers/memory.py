"""A folder in memory, for servers whose data nobody needs after the test: databases are made ten times as fast there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

__all__ = ["quick_folder"]

_SHARED_MEMORY = Path("/dev/shm")
#: What must be free there, for several servers and their logs; containers often have 64 MB only.
_ROOM_BYTES = 6 * 1024**3
_PREFIX = "penstock-tests-"


@contextmanager
def quick_folder(fallback: Path) -> Iterator[Path]:
    """A folder that is gone afterwards, in memory where there is room, else `fallback`."""
    if not _SHARED_MEMORY.is_dir() or shutil.disk_usage(_SHARED_MEMORY).free < _ROOM_BYTES:
        yield fallback
        return
    _remove_leftovers()
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_SHARED_MEMORY))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers() -> None:
    """What a killed run left there is memory that nobody gets back."""
    for folder in _SHARED_MEMORY.glob(f"{_PREFIX}*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
