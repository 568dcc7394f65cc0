"""
One spool file: the events of one epoch in SQLite, and what must be known to send them for their producer.

| table  | columns                            | what                                        |
|--------|------------------------------------|---------------------------------------------|
| events | seq INTEGER PRIMARY KEY, event BLOB| events as they travel, until they are done  |
| meta   | name PRIMARY KEY, value            | epoch, producer, destination, journal, ...  |

Every statement is a transaction of its own: a signal handler or a finalizer that publishes lands between two statements, never
inside a transaction of its own thread.

The cap is `PRAGMA max_page_count`, so that a cap that is reached and a full disk are one error, `SpoolRefused`.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from penstock_producers.spool import forks
from penstock_schemas.answer import SeqRange

__all__ = ["SpoolCorrupt", "SpoolFile", "SpoolRefused"]

#: Kept in the file's header; another number is a file of another release.
_VERSION = 1
#: Rows of one INSERT: SQLite takes 32,766 parameters, and envelopes hold 10,000 events at most.
_MAX_ROWS = 10_000
#: Ranges of one DELETE.
_MAX_RANGES = 200
#: Seconds to wait for `penstock spool list`, which reads the files of living owners.
_BUSY_TIMEOUT_S = 1.0
#: A file whose events are all done is begun anew once it has this many bytes, so that an outage gives its disk back.
_SHRINK_BYTES = 4 * 1024 * 1024

_SCHEMA = f"""
BEGIN;
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (seq INTEGER PRIMARY KEY, event BLOB NOT NULL);
PRAGMA user_version = {_VERSION};
COMMIT;
"""
_INSERT = "INSERT OR IGNORE INTO events VALUES (?,?)"


class SpoolRefused(Exception):  # noqa: N818  # it is a state, not a mistake
    """Raised when the disk (or the cap) takes nothing now; what was there is there still, and trying again may help."""


class SpoolCorrupt(Exception):  # noqa: N818  # it is a state, not a mistake
    """Raised when a file cannot be read, and trying again will not help."""


class SpoolFile:
    """Made by `create` and `open`; the folder's lock on it is the caller's."""

    def __init__(self, path: Path, query: str = "?mode=rw") -> None:
        self.path = path
        self._gate = threading.RLock()
        with forks.registering, self._inside():  # in this order: a fork takes them so
            self._connection = sqlite3.connect(
                path.absolute().as_uri() + query,
                uri=True,
                timeout=_BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=16,
            )
            forks.connections.add(self._connection)
            forks.gates.add(self._gate)

    @classmethod
    def create(cls, path: Path, meta: dict[str, Any], *, max_bytes: int, is_synced: bool) -> Self:
        """
        A new file, readable by its owner only, or one whose making was cut short. Raises SpoolRefused, and SpoolCorrupt for a
        file of that name that is something else.
        """
        try:
            # SQLite gives its helpers the mode of the file.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except OSError as exc:
            raise SpoolRefused(str(exc)) from exc
        file = cls(path)
        try:
            with file._inside():
                file._configure(max_bytes, is_synced=is_synced)
                file._connection.executescript(_SCHEMA)
            file.set_meta(**meta)
        except BaseException:
            file.close()
            raise
        return file

    @classmethod
    def open(cls, path: Path, *, max_bytes: int) -> Self:
        """A file that another process left, checked. Raises SpoolRefused, SpoolCorrupt."""
        file = cls(path)
        try:
            with file._inside():
                file._check()
                file._configure(max_bytes, is_synced=bool(file.meta().get("fsync")))
        except BaseException:
            file.close()
            raise
        return file

    @classmethod
    def look(cls, path: Path) -> Self:
        """A file of a living owner, to be read only. Raises SpoolRefused, SpoolCorrupt."""
        return cls(path, "?mode=ro")

    def _configure(self, max_bytes: int, *, is_synced: bool) -> None:
        execute = self._connection.execute
        execute("PRAGMA journal_mode = WAL")
        # NORMAL writes through at checkpoints only: it survives a killed process, and a power loss all but the last moments.
        execute(f"PRAGMA synchronous = {'FULL' if is_synced else 'NORMAL'}")
        (page_bytes,) = execute("PRAGMA page_size").fetchone()
        execute(f"PRAGMA max_page_count = {max(16, max_bytes // page_bytes)}")

    def _check(self) -> None:
        if not self._connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            self._connection.executescript(_SCHEMA)  # killed before it could write them: nothing was in it
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version != _VERSION:
            raise SpoolCorrupt(f"its version is {version}, this release reads {_VERSION}")
        (verdict,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise SpoolCorrupt(verdict)

    def append(self, rows: Sequence[tuple[int, bytes]]) -> None:
        """All or none; those that are there already are left as they are. Raises SpoolRefused."""
        if len(rows) == 1:  # the way of every event of a journal, so without `_inside`, which costs microseconds
            with self._gate:
                try:
                    self._connection.execute(_INSERT, rows[0])
                except sqlite3.Error as exc:
                    raise _own_error(exc) from exc
            return
        with self._inside():
            for start in range(0, len(rows), _MAX_ROWS):
                part = rows[start : start + _MAX_ROWS]
                values = [value for row in part for value in row]
                try:
                    self._connection.execute(_INSERT + ",(?,?)" * (len(part) - 1), values)
                except sqlite3.Error:
                    with suppress(sqlite3.Error):
                        self._connection.executemany("DELETE FROM events WHERE seq = ?", [(seq,) for seq, _ in rows[:start]])
                    raise

    def read(self, first: int, last: int, limit_bytes: int) -> list[tuple[int, bytes]]:
        """Rows in order, at least one if there is one, up to `limit_bytes`. Raises SpoolRefused, SpoolCorrupt."""
        rows: list[tuple[int, bytes]] = []
        size = 0
        with self._inside():
            for seq, event in self._connection.execute(
                "SELECT seq, event FROM events WHERE seq BETWEEN ? AND ? ORDER BY seq", (first, last)
            ):
                size += len(event)
                if rows and size > limit_bytes:
                    break
                rows.append((seq, event))
        return rows

    def ranges(self) -> list[SeqRange]:
        """The numbers of all rows. Reads the whole file. Raises SpoolRefused, SpoolCorrupt."""
        with self._inside():
            return self._connection.execute(
                "SELECT min(seq), max(seq) FROM (SELECT seq, seq - row_number() OVER (ORDER BY seq) AS island FROM events)"
                " GROUP BY island ORDER BY 1"
            ).fetchall()

    def count(self) -> int:
        """How many rows there are. Raises SpoolRefused, SpoolCorrupt."""
        with self._inside():
            (count,) = self._connection.execute("SELECT count(*) FROM events").fetchone()
            return int(count)

    def delete(self, ranges: Sequence[SeqRange]) -> None:
        """Remove rows. Raises SpoolRefused, on a full disk too; the rows are there still then, perhaps not all of them."""
        with self._inside():
            for start in range(0, len(ranges), _MAX_RANGES):
                part = ranges[start : start + _MAX_RANGES]
                where = " OR ".join(["seq BETWEEN ? AND ?"] * len(part))
                self._connection.execute(f"DELETE FROM events WHERE {where}", [seq for pair in part for seq in pair])

    def meta(self) -> dict[str, Any]:
        """What is known of the file's producer. Raises SpoolRefused, SpoolCorrupt."""
        with self._inside():
            return dict(self._connection.execute("SELECT name, value FROM meta").fetchall())

    def set_meta(self, **values: Any) -> None:
        """Note facts. Raises SpoolRefused."""
        with self._inside():
            self._connection.executemany("INSERT OR REPLACE INTO meta VALUES (?,?)", values.items())

    def shrink(self) -> None:
        """Give the bytes of deleted rows back to the disk, as far as it lets us."""
        with suppress(sqlite3.Error), self._gate:
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    @property
    def is_large(self) -> bool:
        """Worth being begun anew when all its events are done."""
        return self.size_bytes > _SHRINK_BYTES

    @property
    def size_bytes(self) -> int:
        """With what SQLite keeps beside it."""
        return sum(path.stat().st_size for path in files_of(self.path) if path.exists())

    def close(self) -> None:
        with forks.registering, self._gate:
            with suppress(sqlite3.Error):
                self._connection.close()
            forks.connections.discard(self._connection)
            forks.gates.discard(self._gate)

    def remove(self) -> None:
        """Close and delete. Raises SpoolRefused."""
        self.close()
        with self._inside():
            for path in files_of(self.path):
                path.unlink(missing_ok=True)

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """Around everything that touches SQLite: no fork meanwhile, and only our own errors come out."""
        with self._gate:
            try:
                yield
            except sqlite3.Error as exc:
                raise _own_error(exc) from exc
            except OSError as exc:
                raise SpoolRefused(str(exc)) from exc


def files_of(path: Path) -> list[Path]:
    """The file and what SQLite keeps beside it; the file first, without which the rest means nothing."""
    return [path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))]


def _own_error(error: sqlite3.Error) -> Exception:
    # The lowest byte is the kind of error, the others say more.
    kind = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    is_corrupt = kind in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or "no such table" in str(error)
    return (SpoolCorrupt if is_corrupt else SpoolRefused)(str(error))
