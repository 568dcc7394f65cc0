"""Dead letters that are kept no longer: those of which nothing can be read, and, where a setting says so, the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg import sql

from penstock_worker.letters.discard import discard_chunk
from penstock_worker.settings import Settings
from penstock_worker.store.connection import Connection
from penstock_worker.store.retention.pace import Pace, Size
from penstock_worker.store.retention.rows import STEP_S
from penstock_worker.store.stored_letters import BEFORE_ALL

__all__ = ["LettersDue", "discard_old", "letters_due"]

#: A payload may be of megabytes.
FIRST_LETTERS = 50
MAX_LETTERS = 1_000


@dataclass(frozen=True, slots=True)
class LettersDue:
    """Which letters go, and what the ledger says of them."""

    name: str
    days: int
    condition: sql.Composed

    @property
    def reason(self) -> str:
        """The ledger's reason."""
        return f"discarded after {self.days} days"


def letters_due(settings: Settings, now: datetime) -> Iterator[LettersDue]:
    """
    What is due at a moment.

    A person cannot be found in what cannot be read, so that it is kept for a limited time always. Of others a whole type stays
    as long as a legal hold may concern one of them.
    """
    days = settings.unparsable_letter_days
    condition = sql.SQL("type IS NULL AND at < {}").format(now - timedelta(days=days))
    yield LettersDue("unparsable", days, condition)
    if settings.dead_letter_days >= 0:
        days = settings.dead_letter_days
        condition = sql.SQL(
            "type IS NOT NULL AND at < {} AND NOT EXISTS (SELECT FROM penstock.legal_holds h"
            " WHERE h.released_at IS NULL AND coalesce(h.type, dead_letters.type) = dead_letters.type)"
        ).format(now - timedelta(days=days))
        yield LettersDue("others", days, condition)


def discard_old(connection: Connection, settings: Settings, now: datetime, pace: Pace) -> Iterator[int]:
    """
    Delete what is due, in chunks; the ledger says of their events that they are dead.

    Yields:
        How many letters a chunk had.

    Raises:
        OutOfTime: The next run does the rest.
    """
    size = Size(FIRST_LETTERS, STEP_S, MAX_LETTERS)
    for due in letters_due(settings, now):
        after = BEFORE_ALL
        while True:
            with pace.piece(size, MAX_LETTERS, locks=True) as letters:
                ids = discard_chunk(connection, due.condition, after, due.reason, letters)
            if not ids:
                break
            after = max(ids)
            yield len(ids)
            pace.check()
