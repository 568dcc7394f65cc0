"""A SQLite file, opened for reading alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from penstock_worker.errors import ConfigurationError

__all__ = ["BrokenText", "Value", "open_file", "quoted"]

#: What every file of SQLite begins with.
_MAGIC = b"SQLite format 3\x00"
#: Seconds that somebody else's transaction is waited for.
LOCK_TIMEOUT_S = 10
#: What SQLite says where it would have to make a file, or to write one.
_UNWRITABLE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
_HINTS = {
    sqlite3.SQLITE_BUSY: "stop who writes it, or import a copy",
    sqlite3.SQLITE_CORRUPT: "what was imported by then stays; try the file that `sqlite3 FILE .recover` makes of it",
    sqlite3.SQLITE_CANTOPEN: "with the files beside it, copy it to a folder that may be written, and import the copy",
    sqlite3.SQLITE_READONLY: "with the files beside it, copy it to a folder that may be written, and import the copy",
}


@dataclass(frozen=True, slots=True)
class BrokenText:
    """A text that is not UTF-8, as its bytes."""

    raw: bytes


#: What a column of a row holds; bytes are a BLOB.
Value = None | int | float | str | bytes | BrokenText


@contextmanager
def open_file(file: Path) -> Iterator[sqlite3.Connection]:
    """
    One state of a file, in one read transaction; a scheduler that still runs may go on writing, where the file is in WAL mode.

    Raises:
        ConfigurationError: It is no SQLite file, it cannot be read, or what is in it is damaged; also later, while it is read.
    """
    _check_magic(file)
    try:
        with closing(_connect(file)) as connection:
            connection.text_factory = _text
            yield connection
    except sqlite3.Error as exc:
        hint = _HINTS.get(_code(exc), "what was imported by then stays")
        raise ConfigurationError(f"{file} cannot be read: {exc}; {hint}") from exc


def quoted(name: str) -> str:
    """A name as it stands in a statement."""
    return '"' + name.replace('"', '""') + '"'


def _check_magic(file: Path) -> None:
    try:
        with file.open("rb") as opened:
            magic = opened.read(len(_MAGIC))
    except OSError as exc:
        raise ConfigurationError(f"{file} cannot be read: {exc.strerror}") from exc
    if magic != _MAGIC:
        raise ConfigurationError(f"{file} is not a SQLite database")


def _connect(file: Path) -> sqlite3.Connection:
    try:
        return _begin(file, "mode=ro")
    except sqlite3.OperationalError as exc:
        # A file in WAL mode wants two more beside it, which SQLite cannot make in a folder that may not be written. Where there
        # are none nobody has it open, and what is in it is all there is.
        if _code(exc) not in _UNWRITABLE or _has_log(file):
            raise
        return _begin(file, "immutable=1")


def _begin(file: Path, how: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{quote(str(file.absolute()))}?{how}", LOCK_TIMEOUT_S, isolation_level=None, uri=True)
    try:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # it is opened now, and no earlier
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _has_log(file: Path) -> bool:
    """Whether changes lie beside the file that belong into it, or out of it."""
    logs = (file.with_name(f"{file.name}{ending}") for ending in ("-wal", "-journal"))
    return any(log.exists() and log.stat().st_size > 0 for log in logs)


def _code(error: sqlite3.Error) -> int:
    """The kind of an error, without its details; 0 where the driver says none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _text(raw: bytes) -> str | BrokenText:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return BrokenText(raw)
