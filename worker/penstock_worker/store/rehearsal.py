"""Whether the database would take a batch: tried out without leaving anything, or merely asked."""

from __future__ import annotations

import psycopg

from penstock_worker.store.connection import Connection

__all__ = ["refuse_read_only", "rehearse"]

#: Fails where a batch would: at a standby's or a full disk's writes, not only at what it can still read.
_STATEMENTS = (
    "SET LOCAL lock_timeout = '2s'",
    "SET LOCAL statement_timeout = '10s'",
    "INSERT INTO penstock.suspects (id, kills, is_running) VALUES (gen_random_uuid(), 0, false)",
    # A row finds room in a page that is there; this makes the data directory grow by a megabyte, and shrink again.
    "CREATE TEMP TABLE rehearsal ON COMMIT DROP AS SELECT repeat('x', 1000) FROM generate_series(1, 1000)",
)


def rehearse(connection: Connection) -> None:
    """
    Write a little and roll it back.

    Raises:
        psycopg.Error: The database does not take it.
    """
    with connection.transaction(force_rollback=True):
        for statement in _STATEMENTS:
            connection.execute(statement)


def refuse_read_only(connection: Connection) -> None:
    """
    Ask whether it could be written, one round trip and no trace; a full disk does not show.

    Raises:
        psycopg.Error: It is away, or is a standby or otherwise read-only.
    """
    if connection.execute("SHOW transaction_read_only").fetchone() != ("off",):
        raise psycopg.errors.ReadOnlySqlTransaction("the server is a standby, or read-only")
