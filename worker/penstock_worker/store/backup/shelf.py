"""
The folder that backups lie in.

    20261121-020000-3f2a/         a backup, whole
    .new-20261121-020000-3f2a/    one that is being made, locked by who makes it; or left by one that was killed
    .old-20261021-020000-91c0/    one that is being removed
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from penstock_worker.errors import ConfigurationError
from penstock_worker.store.backup.header import Header, read_header

__all__ = ["Shelved", "find_backup", "list_backups", "new_backup", "new_id", "outdated", "remove", "sync_folder"]

_NEW, _OLD = ".new-", ".old-"
#: Says "the newest one" where an id is wanted.
_LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Shelved:
    """A backup that lies there; `header` is None where it cannot be read."""

    path: Path
    header: Header | None

    @property
    def is_whole(self) -> bool:
        return self.header is not None and self.header.is_whole(self.path)


def new_id(now: datetime) -> str:
    """Ids sort by time; what follows it keeps two of one second apart."""
    return f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


@contextmanager
def new_backup(shelf: Path, backup_id: str) -> Iterator[Path]:
    """
    A folder to write a backup into. At the block's end it gets its name; on any exception it is removed.

    What killed runs left is removed first.
    """
    shelf.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_leftovers(shelf)
    draft = shelf / f"{_NEW}{backup_id}"
    draft.mkdir(mode=0o700)
    try:
        with _locked(draft):
            yield draft
            sync_folder(draft)
            draft.rename(shelf / backup_id)
            sync_folder(shelf)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def list_backups(shelf: Path) -> list[Shelved]:
    """Every backup there is, the oldest first; one whose header cannot be read is in the place that its name says."""
    if not shelf.is_dir():
        return []
    folders = [path for path in shelf.iterdir() if not path.name.startswith(".") and (path / "backup.json").is_file()]
    return sorted((Shelved(path, _header_or_none(path)) for path in folders), key=lambda found: found.path.name)


def find_backup(shelf: Path, name: str) -> tuple[Path, Header]:
    """
    A backup by its id, by the path of its folder, or the newest whole one by the word `latest`.

    Raises:
        ConfigurationError: There is none.
    """
    if name == _LATEST:
        whole = [found for found in list_backups(shelf) if found.is_whole]
        if not whole:
            raise ConfigurationError(f"there is no backup in {shelf}: make one with `penstock backup`, or say --folder")
        return whole[-1].path, read_header(whole[-1].path)
    path = Path(name) if os.sep in name else shelf / name
    if not path.is_dir():
        raise ConfigurationError(f"there is no backup {name} in {shelf}: see `penstock backups`, or give its folder's path")
    return path, read_header(path)


def outdated(found: list[Shelved], now: datetime, keep_days: int) -> list[Shelved]:
    """
    Which of these backups have been kept long enough. The newest whole one is never among them, nor is one that cannot be read.

    Args:
        found: As `list_backups` gives them.
        now: What time it is.
        keep_days: -1 keeps them for ever.
    """
    if keep_days < 0:
        return []
    newest = next((each.path for each in reversed(found) if each.is_whole), None)
    before = now - timedelta(days=keep_days)
    return [each for each in found if each.header and each.header.timestamp < before and each.path != newest]


def remove(shelved: Shelved) -> None:
    """Remove a backup; a kill in the middle leaves nothing that looks like one."""
    gone = shelved.path.with_name(f"{_OLD}{shelved.path.name}")
    shelved.path.rename(gone)
    shutil.rmtree(gone)


def sync_folder(folder: Path) -> None:
    """Have the disk know which files the folder has."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_leftovers(shelf: Path) -> None:
    for path in shelf.iterdir():
        # Somebody else may make a backup of another database into this folder right now.
        if path.name.startswith(_OLD) or (path.name.startswith(_NEW) and not _is_locked(path)):
            shutil.rmtree(path, ignore_errors=True)


def _is_locked(folder: Path) -> bool:
    with suppress(FileNotFoundError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False


def _header_or_none(path: Path) -> Header | None:
    try:
        return read_header(path)
    except ConfigurationError:
        return None
