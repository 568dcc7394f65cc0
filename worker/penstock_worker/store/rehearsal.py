"""Whether the database would take a batch, tried out without leaving anything."""

from __future__ import annotations

from penstock_worker.store.connection import Connection

__all__ = ["rehearse"]

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
