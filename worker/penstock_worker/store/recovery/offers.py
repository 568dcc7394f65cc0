"""Offers: incomplete records that somebody should resume, again after growing pauses."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from psycopg import sql
from psycopg.rows import class_row

from penstock_worker.store.connection import Connection
from penstock_worker.store.recovery.recoveries import COLUMNS, Recovery

__all__ = ["due_offers", "note_offers"]

#: Doublings after which a pause is as long as it gets, whatever the setting; 2**20 minutes are two years.
_MOST_DOUBLINGS = 20


def due_offers(connection: Connection, types: Collection[str], now: datetime, limit: int) -> list[Recovery]:
    """The open recoveries of these types whose next offer is due and that nobody holds, the longest due first."""
    query = sql.SQL(
        "SELECT {columns} FROM penstock.recoveries WHERE ended_at IS NULL AND outcome IS NULL AND type = ANY ({types})"
        " AND next_offer_at <= {now} AND (claimed_until IS NULL OR claimed_until <= {now}) ORDER BY next_offer_at LIMIT {limit}"
    ).format(columns=COLUMNS, types=list(types), now=now, limit=limit)
    with connection.cursor(row_factory=class_row(Recovery)) as cursor:
        return cursor.execute(query).fetchall()


def note_offers(
    connection: Connection, offered: Sequence[Recovery], now: datetime, pause: timedelta, longest_pause: timedelta
) -> None:
    """Note that these were announced: after the announcement, so that one that failed is made again."""
    connection.execute(
        "UPDATE penstock.recoveries SET offers = offers + 1,"
        " next_offer_at = %s + least(%s * power(2, least(offers, %s)), %s) WHERE id = ANY (%s)",
        [now, pause, _MOST_DOUBLINGS, longest_pause, [recovery.id for recovery in offered]],
    )
