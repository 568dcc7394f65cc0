"""The header of a backup: all that can be known of one without its key."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from penstock_worker.errors import ConfigurationError

__all__ = ["DUMP_FILES", "Format", "Header", "StoredFile", "damage", "read_header", "stored_name", "write_header"]

Format = Literal["custom", "plain"]

#: What the dump's file is called.
DUMP_FILES: dict[Format, str] = {"custom": "dump.custom", "plain": "dump.sql.gz"}

_FILE = "backup.json"
_LAYOUT = 1
_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as it lies there, encrypted where the backup is."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Header:
    """`size` is the bytes of all files, `timestamp` when the backup was begun."""

    backup_id: str
    timestamp: datetime
    size: int
    format: Format
    is_encrypted: bool
    files: dict[str, StoredFile]

    def to_json(self) -> str:
        value = {"penstock_backup": _LAYOUT, **asdict(self), "timestamp": self.timestamp.isoformat()}
        return json.dumps(value, indent=2) + "\n"

    def name_of(self, file: str) -> str:
        """What a file of the backup is called in its folder."""
        return stored_name(file, is_encrypted=self.is_encrypted)

    def is_whole(self, folder: Path) -> bool:
        """Whether every file is there, as large as it was."""
        return all(_size_of(folder / name) == file.size for name, file in self.files.items())


def stored_name(file: str, *, is_encrypted: bool) -> str:
    return f"{file}.age" if is_encrypted else file


def write_header(folder: Path, header: Header) -> Path:
    """Write it last of all: a folder without it is no backup."""
    path = folder / _FILE
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(header.to_json())
        file.flush()
        os.fsync(file.fileno())
    return path


def read_header(folder: Path) -> Header:
    """
    The header of the backup in this folder.

    Raises:
        ConfigurationError: There is none, or it cannot be read.
    """
    try:
        value = json.loads((folder / _FILE).read_text())
        if value.pop("penstock_backup") != _LAYOUT:
            raise ConfigurationError(f"{folder} was written by a newer Penstock: use that one")
        value["timestamp"] = datetime.fromisoformat(value["timestamp"]).astimezone(UTC)
        value["files"] = {name: StoredFile(**file) for name, file in value["files"].items()}
        return Header(**value)
    except FileNotFoundError as exc:
        raise ConfigurationError(f"{folder} is not a backup: it has no {_FILE}") from exc
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise ConfigurationError(f"the backup {folder} is damaged: its {_FILE} cannot be read") from exc


def damage(folder: Path, header: Header, progress: Callable[[int, int | None], None]) -> list[str]:
    """What is wrong with the files of a backup, a line each; `progress` is told bytes."""
    problems, done = [], 0
    for name, file in header.files.items():
        size = _size_of(folder / name)
        if size is None:
            problems.append(f"{name} is missing")
        elif size != file.size:
            problems.append(f"{name} has {size:,} bytes instead of {file.size:,}")
        elif _sha256_of(folder / name) != file.sha256:
            problems.append(f"{name} is not what was written: its SHA-256 is another")
        done += file.size
        progress(done, header.size)
    return problems


def _size_of(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
