"""The dump: pg_dump at the very snapshot at which the tables were summed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import psycopg
from psycopg import sql

from penstock_worker.store.backup.header import Format
from penstock_worker.store.backup.process import run
from penstock_worker.store.backup.programs import Programs, as_words
from penstock_worker.store.backup.sums import list_tables, prepare_session
from penstock_worker.store.connection import Connection

__all__ = ["Snapshot", "dumping", "snapshot_of"]

#: How long pg_dump waits for a table that somebody has locked; everybody who wants the table waits behind it.
_LOCK_WAIT = "60s"
#: How often tables are listed anew, one of which was dropped before it could be locked.
_TRIES = 5
#: What it says before each table's rows.
_ON_TABLE = "dumping contents of table"

_WORDS: dict[Format, tuple[str, ...]] = {
    "custom": ("--format=custom",),
    # To be read by any PostgreSQL, whose roles are others.
    "plain": ("--format=plain", "--compress=6", "--no-owner", "--no-acl"),
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A moment of the database: everything read through `connection` is of it, and so is a dump with `name`."""

    connection: Connection
    name: str


@contextmanager
def snapshot_of(connection: Connection) -> Iterator[Snapshot]:
    """
    The present moment, while the block runs.

    Args:
        connection: In autocommit; after an exception it is of no use any more.
    """
    prepare_session(connection)
    _begin_with_tables(connection)
    row = connection.execute("SELECT pg_export_snapshot()").fetchone()
    assert row is not None  # a function gives a row
    yield Snapshot(connection, str(row[0]))
    connection.execute("ROLLBACK")


def _begin_with_tables(connection: Connection) -> None:
    """
    Begin a transaction that keeps every table: retention drops partitions, and what is dropped is in no snapshot.

    A lock takes no snapshot, so that nothing can be dropped between the two.
    """
    for attempt in range(1, _TRIES + 1):
        tables = sql.SQL(", ").join(sql.Identifier(*table) for table in list_tables(connection))
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(tables))
        except psycopg.errors.UndefinedTable:
            connection.execute("ROLLBACK")
            if attempt == _TRIES:
                raise
        else:
            return


@contextmanager
def dumping(
    programs: Programs, url: str, snapshot: Snapshot, format: Format, on_table: Callable[[], None]
) -> Iterator[IO[bytes]]:
    """
    What pg_dump writes; at the block's end it has ended well.

    Args:
        programs: See `find_programs`.
        url: The database.
        snapshot: Of the same database.
        format: See `header`.
        on_table: Called as it begins with each table's rows.

    Raises:
        ConfigurationError: It has not ended well, for lack of a right for example.
    """
    database, environment = as_words(url)
    words = [programs.pg_dump, "--dbname", database, "--no-password", "--verbose"]
    words += [f"--snapshot={snapshot.name}", f"--lock-wait-timeout={_LOCK_WAIT}", *_WORDS[format]]
    with run(words, environment, on_line=lambda line: on_table() if _ON_TABLE in line else None) as pg_dump:
        yield pg_dump.output
        pg_dump.finish()
