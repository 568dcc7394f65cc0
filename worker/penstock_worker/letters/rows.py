"""Rows before and after a replay, inside its transaction: what a dry run shows."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from psycopg import sql

from penstock_worker.ingest.message import Event
from penstock_worker.letters.summary import RowChange
from penstock_worker.store.connection import Connection

__all__ = ["RowLook"]

#: Bookkeeping that tells a person nothing.
_HIDDEN = ["_event", "_deleted_event", "_stamps", "_stored_at"]


class RowLook:
    """
    Looks at the rows of some events now, and once more when they are written.

    Args:
        connection: In the transaction; the tables of these events are known to be there.
        events: Those about to be written; the ones that have been ended already are passed over.
        limit: How many are looked at.
    """

    def __init__(self, connection: Connection, events: Iterable[Event], limit: int) -> None:
        live = islice((event for event in events if event.verdict is None), limit)
        self._before = [(event, _row(connection, event)) for event in live]

    def changes(self, connection: Connection) -> list[RowChange]:
        """What became of the rows whose events were written."""
        return [
            RowChange(event.id, event.record.name, event.key, event.outcome.value, before, _row(connection, event))
            for event, before in self._before
            if event.verdict is None
        ]


def _row(connection: Connection, event: Event) -> dict[str, Any] | None:
    conditions = (sql.SQL("{} = %s").format(sql.Identifier(name)) for name in event.record.key)
    query = sql.SQL("SELECT jsonb_strip_nulls(to_jsonb(t) - %s::text[]) FROM {} AS t WHERE {}").format(
        sql.Identifier(*event.record.declaration.table.split(".")), sql.SQL(" AND ").join(conditions)
    )
    found = connection.execute(query, [_HIDDEN, *event.key]).fetchone()
    return found[0] if found else None  # type: ignore[return-value]  # an object
