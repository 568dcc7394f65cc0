"""Discarding letters by hand: the events are given up, and the ledger says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

from psycopg import sql

from penstock_worker.store.connection import Connection
from penstock_worker.store.ledger import Entry, merge_entries, record_entries
from penstock_worker.store.letter_filter import LetterFilter
from penstock_worker.store.stored_letters import BEFORE_ALL

__all__ = ["DISCARDED", "discard", "discard_chunk"]

#: How the ledger's reason begins.
DISCARDED = "discarded by hand"
#: Letters that are deleted in one transaction.
_CHUNK = 1_000


def discard(connection: Connection, meant: LetterFilter, who: str, tell: Callable[[int], None]) -> int:
    """
    Delete letters in chunks, in the order of their ids; their events stay accounted for as dead.

    Args:
        connection: In autocommit.
        meant: Which letters; without `until`, letters that come meanwhile may be among them.
        who: The person, for the ledger.
        tell: Called with the number of letters after each chunk.

    Returns:
        How many were deleted. A letter that a replay has in hand is left.
    """
    total, after = 0, BEFORE_ALL
    reason = f"{DISCARDED} by {who}" if who else DISCARDED
    while deleted := discard_chunk(connection, meant.condition, after, reason):
        after = max(deleted)
        total += len(deleted)
        tell(len(deleted))
    return total


def discard_chunk(
    connection: Connection, condition: sql.Composable, after: UUID, reason: str, letters: int = _CHUNK
) -> list[UUID]:
    """
    Delete some letters in one transaction; their events stay accounted for as dead.

    Args:
        connection: In autocommit.
        condition: Which letters.
        after: The last id of the chunk before: else each would pass by all letters that are not meant once more.
        reason: For the ledger.
        letters: How many at most.

    Returns:
        Their ids; none when there are no more, or others have them locked.
    """
    query = sql.SQL(
        "WITH meant AS (SELECT id FROM penstock.dead_letters WHERE {} AND id > {} ORDER BY id LIMIT {} FOR UPDATE SKIP LOCKED)"
        " DELETE FROM penstock.dead_letters l USING meant WHERE l.id = meant.id"
        " RETURNING l.id, l.epoch, l.seq, coalesce(l.events, 1)"
    ).format(condition, after, letters)
    with connection.transaction():
        rows = connection.execute(query).fetchall()
        known = [told for _, *told in rows if told[0] is not None and told[2]]
        record_entries(connection, merge_entries(_entry(told, reason) for told in known))
    return [UUID(str(row[0])) for row in rows]


def _entry(told: Sequence[object], reason: str) -> Entry:
    epoch, seq, events = told
    first = int(str(seq))
    return Entry(UUID(str(epoch)), "dead", reason, first, first + int(str(events)) - 1)
