"""How long the held letters of a fingerprint wait before one of them is tried again."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from psycopg.rows import class_row

from penstock_worker.store.connection import Connection

__all__ = ["Due", "find_due", "forget", "forget_idle", "pause"]

#: The fingerprints of held letters, by a walk over the index from one to the next: there may be a million letters of each.
_HELD = """
    WITH RECURSIVE held (fingerprint) AS (
        (SELECT fingerprint FROM penstock.dead_letters WHERE state = 'held' ORDER BY fingerprint LIMIT 1)
        UNION ALL
        SELECT (SELECT l.fingerprint FROM penstock.dead_letters l
                WHERE l.state = 'held' AND l.fingerprint > held.fingerprint ORDER BY l.fingerprint LIMIT 1)
        FROM held WHERE held.fingerprint IS NOT NULL
    )
"""


class Due(NamedTuple):
    """Held letters that may be tried now. `last_id` is the letter that was tried last; None before the first try."""

    fingerprint: str
    reason: str
    tries: int
    last_id: UUID | None


def find_due(connection: Connection, limit: int) -> list[Due]:
    """
    The fingerprints whose pause is over, or that have none, the longest waiting first.

    One that was never tried waits since one of its letters was written: however many new ones come, the others get their turn.
    """
    with connection.cursor(row_factory=class_row(Due)) as cursor:
        return cursor.execute(
            _HELD + "SELECT held.fingerprint, one.reason, coalesce(tries, 0) AS tries, last_id"
            " FROM held CROSS JOIN LATERAL (SELECT reason, at FROM penstock.dead_letters l"
            "  WHERE l.state = 'held' AND l.fingerprint = held.fingerprint LIMIT 1) AS one"
            " LEFT JOIN penstock.replay_pauses p ON p.fingerprint = held.fingerprint"
            " WHERE until IS NULL OR until <= now() ORDER BY coalesce(until, one.at), held.fingerprint LIMIT %s",
            [limit],
        ).fetchall()


def pause(connection: Connection, due: Due, last_id: UUID, first_s: float, longest_s: float) -> None:
    """Let a fingerprint wait: `first_s` after the first try, twice as long after each further one, up to `longest_s`."""
    # 2^20 times a second is twelve days: beyond it only the numbers would grow.
    seconds = min(longest_s, first_s * 2 ** min(due.tries, 20))
    connection.execute(
        "INSERT INTO penstock.replay_pauses AS p (fingerprint, tries, last_id, until)"
        " VALUES (%s, %s, %s, now() + make_interval(secs => %s))"
        " ON CONFLICT (fingerprint) DO UPDATE SET tries = excluded.tries, last_id = excluded.last_id, until = excluded.until",
        [due.fingerprint, due.tries + 1, last_id, seconds],
    )


def forget(connection: Connection, fingerprint: str) -> None:
    """It need not wait any longer."""
    connection.execute("DELETE FROM penstock.replay_pauses WHERE fingerprint = %s", [fingerprint])


def forget_idle(connection: Connection) -> None:
    """Forget the pauses of fingerprints of which no letter is held any more."""
    connection.execute(
        "DELETE FROM penstock.replay_pauses p WHERE NOT EXISTS"
        " (SELECT FROM penstock.dead_letters l WHERE l.state = 'held' AND l.fingerprint = p.fingerprint)"
    )
