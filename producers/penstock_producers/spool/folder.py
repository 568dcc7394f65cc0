"""
The spool folder: where files lie, whose they are, and which of them nobody owns any more.

    <spool folder>/<destination>/<epoch>.spool    events (and SQLite's -wal and -shm beside it)
    <spool folder>/<destination>/<epoch>.lock     locked (flock) by the living process that owns the file
    <spool folder>/<destination>/<epoch>.spool.corrupt   set aside, for a person; a second one is <epoch>.2.spool.corrupt

The destination is a hash of broker and queue, so that services of several brokers may share a folder. The kernel gives a lock
back when its process ends, however it ends: a file whose lock can be taken is an orphan.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit
from uuid import UUID

from penstock_producers.spool import forks
from penstock_producers.spool.file import files_of

__all__ = [
    "CORRUPT",
    "SPOOL",
    "Lock",
    "address_of",
    "default_folder",
    "destination_of",
    "is_owned",
    "orphans",
    "prepare",
    "set_aside",
]

logger = logging.getLogger("penstock.producer")

SPOOL = ".spool"
CORRUPT = ".corrupt"
_LOCK = ".lock"
#: Seconds that a lock without a spool file is left alone: its owner is about to make one, and must not find it locked by us.
_MAKING_S = 60.0
_PORTS = {"redis": 6379, "amqp": 5672}


def default_folder() -> Path:
    """`PENSTOCK_SPOOL_FOLDER`, else the state folder of the XDG base directories."""
    if given := os.environ.get("PENSTOCK_SPOOL_FOLDER"):
        return Path(given)
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(os.path.expanduser(state)) / "penstock" / "spool"  # noqa: PTH111  # it leaves a path without a home as it is


def address_of(broker_url: str, queue: str) -> str:
    """Where events go, for people and to tell one destination from another: without user and password."""
    parts = urlsplit(broker_url)
    kind = parts.scheme.removesuffix("s") if parts.scheme in ("rediss", "amqps") else parts.scheme
    path = parts.path.strip("/") or "0" if kind == "redis" else _virtual_host_of(parts.path)
    return f"{kind}://{parts.hostname or 'localhost'}:{parts.port or _PORTS.get(kind, 0)}/{path} {queue}"


def _virtual_host_of(path: str) -> str:
    """As kombu reads it, so that the default one, "/", has one name here: amqp://h, amqp://h/, amqp://h// and amqp://h/%2F."""
    name = unquote(path.removeprefix("/"))
    return "" if name == "/" else name


def destination_of(address: str) -> str:
    """The name of its folder."""
    return hashlib.sha256(address.encode()).hexdigest()[:16]


def prepare(folder: Path) -> None:
    """Make it, for its owner only. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


class Lock:
    """
    A spool file that is ours, until the process ends or `release` is called.

    Nobody referring to it releases it too: an exception that comes on the way to who wanted it leaves no file locked for ever.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def __del__(self) -> None:
        self.release(is_done=False)

    @classmethod
    def take(cls, spool: Path) -> Self | None:
        """None when another process lives that has it. Raises OSError."""
        lock = cls(spool.with_suffix(_LOCK))
        with forks.registering:
            lock._descriptor = descriptor = os.open(lock.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            forks.descriptors.add(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), lock.path.stat()):
                return lock
        except (BlockingIOError, FileNotFoundError):
            pass  # locked, or removed together with its file between our opening and our locking
        except BaseException:
            lock.release(is_done=False)
            raise
        lock.release(is_done=False)
        return None

    def release(self, *, is_done: bool) -> None:
        """Give it back; with its file gone, remove it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        if is_done:
            # While it is still locked: nobody can have taken it between.
            with suppress(OSError):
                self.path.unlink()
        _close(descriptor)


def _close(descriptor: int) -> None:
    with forks.registering:
        if descriptor in forks.descriptors:  # not in a forked child, where the number may be another file's by now
            forks.descriptors.discard(descriptor)
            os.close(descriptor)


def is_owned(spool: Path) -> bool:
    """Whether a living process has the file's lock."""
    try:
        with spool.with_suffix(_LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def orphans(folder: Path) -> Iterator[tuple[Path, Lock]]:
    """Files that nobody owns, locked for the caller, oldest epoch first. What a killed process left half made is removed."""
    for path in sorted(_listed(folder)):
        try:
            spool = path.with_suffix(SPOOL)
            UUID(spool.stem)
            lock = None if _is_being_made(spool) else Lock.take(spool)
        except (OSError, ValueError):
            continue
        if lock is None:
            continue
        if spool.exists() and spool.stat().st_size:
            yield spool, lock
        else:
            for part in files_of(spool):
                with suppress(OSError):
                    part.unlink(missing_ok=True)
            lock.release(is_done=True)


def _is_being_made(spool: Path) -> bool:
    return not spool.exists() and time.time() - spool.with_suffix(_LOCK).stat().st_mtime < _MAKING_S


def _listed(folder: Path) -> set[Path]:
    try:
        return {folder / (Path(entry.name).stem + SPOOL) for entry in os.scandir(folder) if entry.name.endswith((SPOOL, _LOCK))}
    except OSError:
        return set()


def _free_name(spool: Path) -> Path:
    """The file that comes after one that was set aside has its name, and may break too: both are kept."""
    names = chain([spool.stem], (f"{spool.stem}.{number}" for number in count(2)))
    asides = (spool.with_name(name + SPOOL + CORRUPT) for name in names)
    return next(aside for aside in asides if not aside.exists())


def set_aside(spool: Path, reason: str) -> None:
    """Rename a file that cannot be read, so that it is not met again, and tell a person."""
    aside = _free_name(spool)
    with suppress(OSError):
        # Under names by which SQLite's own tools still find the log of it.
        for source, target in zip(files_of(spool), files_of(aside), strict=True):
            if source.exists():
                source.rename(target)
    logger.warning(
        "a spool file cannot be read (%s); it is set aside as %s, nothing else is held up by it",
        reason,
        aside,
        extra={"action": "spool_set_aside"},
    )
