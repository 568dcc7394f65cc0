"""Discarding letters by hand: the events are given up, and the ledger says so."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from psycopg import sql

from penstock_worker.store.connection import Connection
from penstock_worker.store.ledger import Entry, merge_entries, record_entries
from penstock_worker.store.letter_filter import LetterFilter

__all__ = ["DISCARDED", "discard"]

#: How the ledger's reason begins.
DISCARDED = "discarded by hand"
#: Letters that are deleted in one transaction.
_CHUNK = 1_000


def discard(connection: Connection, meant: LetterFilter, who: str, tell: Callable[[int], None]) -> int:
    """
    Delete letters in chunks; their events stay accounted for as dead.

    Args:
        connection: In autocommit.
        meant: Which letters.
        who: The person, for the ledger.
        tell: Called with the number of letters after each chunk.

    Returns:
        How many were deleted. A letter that a replay has in hand is left.
    """
    total = 0
    while deleted := _discard_chunk(connection, meant, f"{DISCARDED} by {who}" if who else DISCARDED):
        total += deleted
        tell(deleted)
    return total


def _discard_chunk(connection: Connection, meant: LetterFilter, reason: str) -> int:
    query = sql.SQL(
        "WITH meant AS (SELECT id FROM penstock.dead_letters WHERE {} ORDER BY id LIMIT {} FOR UPDATE SKIP LOCKED)"
        " DELETE FROM penstock.dead_letters l USING meant WHERE l.id = meant.id"
        " RETURNING l.epoch, l.seq, coalesce(l.events, 1)"
    ).format(meant.condition, _CHUNK)
    with connection.transaction():
        rows = connection.execute(query).fetchall()
        record_entries(connection, merge_entries(_entry(row, reason) for row in rows if row[0] is not None and row[2]))
    return len(rows)


def _entry(row: tuple[object, ...], reason: str) -> Entry:
    epoch, seq, events = row
    first = int(str(seq))
    return Entry(UUID(str(epoch)), "dead", reason, first, first + int(str(events)) - 1)
