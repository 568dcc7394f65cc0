"""
The search for incomplete records: over the table by pages, from where the last run stopped.

An index of the rows that have not ended would cost every event that is stored, in tables that are mostly of finished rows. A
pass over the pages takes half a second of PostgreSQL for a million rows (docs/recovery.md has the measurement), in pieces over
several runs. So an incomplete record is found up to a pass later than it could have been.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime

from psycopg import sql

from penstock_schemas.record import RecordType
from penstock_schemas.registry import Registry
from penstock_worker.store.connection import Connection
from penstock_worker.store.legal_holds import key_as_json
from penstock_worker.store.queries import visible_rows
from penstock_worker.store.recovery.listening import Ear, note_page
from penstock_worker.store.recovery.rules import Rule
from penstock_worker.store.recovery.tree import activity, is_cared_for, is_open, state_of, table_of

__all__ = ["Search"]

#: Pages of one statement: small enough to be over soon, however many of its rows are stale.
STEP_PAGES = 128

_RECORD_STEP = """
    WITH silent AS MATERIALIZED (
        SELECT {key} AS key, {state} AS state, {activity} AS at
        {visible} AND r.ctid >= {begin}::tid AND r.ctid < {end}::tid AND {is_open} AND r._stored_at <= {line}
        AND NOT {is_cared_for}
        AND NOT EXISTS (SELECT FROM penstock.recoveries AS o WHERE o.type = {type} AND o.key = {key} AND o.ended_at IS NULL)
    )
    INSERT INTO penstock.recoveries (type, key, state, found_at, last_activity, checked_at, next_offer_at)
    SELECT {type}, key, state, {now}, at, {now}, {now} FROM silent
    WHERE at <= {line} AND key::text <> ALL ({spoken})
    AND NOT EXISTS (SELECT FROM penstock.recoveries AS e WHERE e.ended_at > {line} AND e.type = {type} AND e.key = silent.key)
    ON CONFLICT (type, key) WHERE ended_at IS NULL DO NOTHING
"""


class Search:
    """
    Searches the table of one type.

    Args:
        connection: In autocommit.
        registry: Knows the children.
        rules: Of all types.
        ear: Of this type.
        now: What time it is.
    """

    def __init__(self, connection: Connection, registry: Registry, rules: Mapping[str, Rule], ear: Ear, now: datetime) -> None:
        self._connection, self._registry, self._rules = connection, registry, rules
        self._ear, self._rule, self._now = ear, ear.rule, now

    def run(self, pages: int, spoken: Collection[str]) -> tuple[int, int]:
        """
        Record the incomplete ones of so many pages; what is found once is not recorded again while it is open.

        Args:
            pages: At most; the table once, if it is smaller.
            spoken: Keys, as JSON, that were heard of in another way.

        Returns:
            How many were found, and how many pages were read.
        """
        found = read = 0
        for begin, end in _steps(self._ear.page, self._table_pages(), pages):
            found += self._connection.execute(self._statement(begin, end, spoken)).rowcount
            read += end - begin
            note_page(self._connection, self._rule, end)
        return found, read

    @property
    def _record(self) -> RecordType:
        return self._rule.record

    def _table_pages(self) -> int:
        query = "SELECT pg_relation_size(%s::regclass) / current_setting('block_size')::bigint"
        row = self._connection.execute(query, [table_of(self._record).as_string(self._connection)]).fetchone()
        return int(str(row[0])) if row else 0

    def _statement(self, begin: int, end: int, spoken: Collection[str]) -> sql.Composed:
        return sql.SQL(_RECORD_STEP).format(
            key=key_as_json(self._record),
            state=state_of(self._rule),
            activity=activity(self._registry, self._record),
            visible=visible_rows(self._record, self._registry),
            begin=f"({begin},0)",
            end=f"({end},0)",
            is_open=is_open(self._rule),
            is_cared_for=is_cared_for(self._rules, self._record),
            type=self._record.name,
            line=self._now - self._rule.stale_after,
            now=self._now,
            spoken=sql.SQL("{}::text[]").format(list(spoken)),
        )


def _steps(page: int, pages: int, budget: int) -> Iterator[tuple[int, int]]:
    """The ranges of a run: from the page to the table's end, then from its beginning to the page, as far as the budget goes."""
    page = page if page < pages else 0
    for first, last in ((page, pages), (0, page)):
        begin = first
        while begin < last and budget > 0:
            end = min(begin + min(STEP_PAGES, budget), last)
            yield begin, end
            budget -= end - begin
            begin = end
