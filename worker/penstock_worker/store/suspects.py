"""
Messages that may kill the process that reads them, counted in the database because the process cannot.

A suspect is tried alone. Before the try a row says that it is running; after an orderly end, good or bad, the row goes. A row
that still runs when the message comes back is a kill, unless the database itself has been down since.
"""

from __future__ import annotations

from uuid import UUID

from penstock_worker.store.connection import Connection

__all__ = ["begin", "clear"]


def begin(connection: Connection, message: UUID, *, is_innocent: bool) -> int:
    """
    Note that a suspect is about to be tried alone.

    Args:
        connection: In autocommit, so that the note survives the process.
        message: The message's id.
        is_innocent: The last try is known to have ended in order (the database went away), so it does not count.

    Returns:
        How often it has killed while alone.
    """
    (kills,) = connection.execute(
        "INSERT INTO penstock.suspects AS s (id, kills, is_running) VALUES (%s, 0, true) "
        "ON CONFLICT (id) DO UPDATE SET is_running = true, at = now(), "
        "kills = s.kills + (s.is_running AND NOT %s AND s.at > pg_postmaster_start_time())::int "
        "RETURNING kills",
        [message, is_innocent],
    ).fetchone() or (0,)
    return int(str(kills))


def clear(connection: Connection, message: UUID) -> None:
    """Forget a suspect: it was stored, or it is dead."""
    connection.execute("DELETE FROM penstock.suspects WHERE id = %s", [message])
