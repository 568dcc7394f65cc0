"""Recoveries: the records that were found incomplete, who looks after them, and how that ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg import sql
from psycopg.rows import class_row

from penstock_schemas.registry import Registry
from penstock_worker.errors import ConfigurationError
from penstock_worker.store.connection import Connection
from penstock_worker.store.key_words import key_texts

__all__ = ["COLUMNS", "Recovery", "find_incomplete", "find_recovery", "get_recovery", "purge_ended", "typed_key"]

#: Of `Recovery`, in its order; the claim itself is its holder's secret.
COLUMNS = sql.SQL(
    "id, type, key, state, found_at, last_activity, offers, next_offer_at, claimed_by, claimed_until,"
    " ended_at, ended_by, outcome"
)


@dataclass(frozen=True, slots=True)
class Recovery:
    """
    A record that was found incomplete.

    Args:
        key: Its values as text, in the order of the key's columns.
        state: The record's own, as it was last seen; None if none was ever told.
        last_activity: When the record, or anything below it, had last changed when it was found.
        offers: How often it was announced.
        claimed_by: Who resumes it, until `claimed_until`.
        outcome:
            How it ended: `completed` (a terminal state came), `active again`, `interrupted` (given up), `gone` (deleted), or
            the word of whoever resolved it. None while it is open.
    """

    id: int
    type: str
    key: list[str]
    state: str | None
    found_at: datetime
    last_activity: datetime
    offers: int
    next_offer_at: datetime | None
    claimed_by: str | None
    claimed_until: datetime | None
    ended_at: datetime | None
    ended_by: str | None
    outcome: str | None


def find_incomplete(
    connection: Connection, *, type: str | None = None, with_ended: bool = False, after: int = 0, limit: int = 100
) -> list[Recovery]:
    """
    The records that are incomplete now, in the order in which they were found.

    Args:
        connection: Any; nothing is written.
        type: Only of this type.
        with_ended: Also those that are over, as long as they are kept.
        after: Those with higher ids only: the last one's of the page before.
        limit: How many at most.
    """
    conditions: list[sql.Composable] = [sql.SQL("id > {}").format(after)]
    conditions += [sql.SQL("type = {}").format(type)] if type is not None else []
    conditions += [] if with_ended else [sql.SQL("ended_at IS NULL AND outcome IS NULL")]
    query = sql.SQL("SELECT {} FROM penstock.recoveries WHERE {} ORDER BY id LIMIT {}").format(
        COLUMNS, sql.SQL(" AND ").join(conditions), limit
    )
    with connection.cursor(row_factory=class_row(Recovery)) as cursor:
        return cursor.execute(query).fetchall()


def find_recovery(connection: Connection, recovery: int) -> Recovery | None:
    """One by its id; None where there is none, or none any more."""
    query = sql.SQL("SELECT {} FROM penstock.recoveries WHERE id = {}").format(COLUMNS, recovery)
    with connection.cursor(row_factory=class_row(Recovery)) as cursor:
        return cursor.execute(query).fetchone()


def get_recovery(connection: Connection, recovery: int) -> Recovery:
    """
    The same.

    Raises:
        ConfigurationError: There is none.
    """
    found = find_recovery(connection, recovery)
    if found is None:
        raise ConfigurationError(f"there is no recovery {recovery}: `penstock recovery list --all` shows those that are kept")
    return found


def typed_key(connection: Connection, registry: Registry, type: str, words: Sequence[str]) -> list[str]:
    """
    The key of a record as recoveries write it: `0042` is 42 where the column is a number.

    Raises:
        ConfigurationError: There is no such type, or its key is written otherwise.
    """
    if type not in registry:
        raise ConfigurationError(f"there is no type {type!r}; there are {', '.join(registry)}")
    record = registry[type]
    if len(words) != len(record.key):
        raise ConfigurationError(f"the key of {type} is {', '.join(record.key)}: give {len(record.key)}, not {len(words)}")
    return key_texts(connection, record, words)


def purge_ended(connection: Connection, now: datetime, keep: timedelta, limit: int) -> int:
    """Forget recoveries that ended long ago, at most so many; how many it were."""
    return connection.execute(
        "DELETE FROM penstock.recoveries WHERE id IN"
        " (SELECT id FROM penstock.recoveries WHERE ended_at < %s ORDER BY ended_at LIMIT %s)",
        [now - keep, limit],
    ).rowcount
