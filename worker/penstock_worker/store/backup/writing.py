"""Writing the files of a backup: private, on disk when closed, hashed on the way, encrypted if asked."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from penstock_worker.store.backup.header import StoredFile, stored_name
from penstock_worker.store.backup.seal import seal_bytes, seal_stream

__all__ = ["BackupWriter"]

_CHUNK_BYTES = 256 * 1024


@dataclass
class BackupWriter:
    """
    What writes files into a backup's folder.

    Args:
        folder: Where.
        recipients: Whom to encrypt them for; nobody by default.
    """

    folder: Path
    recipients: list[Any] = field(default_factory=list)
    files: dict[str, StoredFile] = field(default_factory=dict)

    def add_text(self, name: str, text: str) -> None:
        """A small file."""
        data = text.encode()
        with self._open(name) as file:
            file.write(seal_bytes(data, self.recipients) if self.recipients else data)

    def add_stream(self, name: str, reader: IO[bytes]) -> None:
        """A large file."""
        with self._open(name) as file:
            if self.recipients:
                seal_stream(reader, file, self.recipients)
            else:
                shutil.copyfileobj(reader, file, _CHUNK_BYTES)

    def _open(self, name: str) -> _HashedFile:
        stored = stored_name(name, is_encrypted=bool(self.recipients))
        return _HashedFile(self.folder / stored, self.files)


class _HashedFile:
    """A file to write once; when it is closed without an exception, what it is stands in `files`."""

    def __init__(self, path: Path, files: dict[str, StoredFile]) -> None:
        self._path, self._files = path, files
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        self._digest = hashlib.sha256()
        self._size = 0
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            self._file.write(data)
        except OSError as exc:
            self.error = exc
            raise
        self._digest.update(data)
        self._size += len(data)
        return len(data)

    def flush(self) -> None:
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self._abandon()
            return
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._files[self._path.name] = StoredFile(self._size, self._digest.hexdigest())

    def _abandon(self) -> None:
        try:
            self._file.close()
        except OSError:
            # It is removed with its folder; the first error is the one to tell.
            return
