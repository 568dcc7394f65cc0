"""
Giving up: `interrupted` is written where a record has been silent for too long, and into all below it that has not ended.

It is merged like an event that says the state and nothing else, by the same upsert. Its stamp is the one of the state that it
replaces with a `+` behind it: higher than that one, lower than every newer event's, and of rank 0. So in whatever order they
come, a newer event and a terminal state win, and an older event does not. A state that no event has told is replaced with the
stamp `0+`, which is below every real one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from functools import cached_property

from psycopg import sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from penstock_schemas.record import RecordType
from penstock_schemas.registry import Registry
from penstock_worker.store.connection import Connection
from penstock_worker.store.legal_holds import key_as_json
from penstock_worker.store.queries import visible_rows
from penstock_worker.store.recovery.recoveries import COLUMNS, Recovery
from penstock_worker.store.recovery.rules import INTERRUPTED, Rule
from penstock_worker.store.recovery.tree import Descent, activity, descents, is_open, same_key, state_of, table_of
from penstock_worker.store.upsert import UpsertPlan, literal, quote

__all__ = ["Interruption"]

#: Rows of one transaction, which keeps workers from them: some hundredths of a second.
CHUNK_ROWS = 1_000


class Interruption:
    """
    Gives up the records of all types.

    Args:
        connection: In autocommit.
        registry: Knows the children.
        rules: Of all types.
        now: What time it is.
    """

    def __init__(self, connection: Connection, registry: Registry, rules: Mapping[str, Rule], now: datetime) -> None:
        self._connection, self._registry, self._rules, self._now = connection, registry, rules, now

    def begin(self, rule: Rule, spoken: Collection[str], limit: int) -> int:
        """
        Give up records of a type whose silence has lasted too long and that nobody holds.

        Args:
            rule: Of the type.
            spoken: Keys, as JSON, that were heard of in another way.
            limit: How many at most; the next run goes on.

        Returns:
            How many they were. What is below them follows in `finish`.
        """
        due = self._connection.execute(
            "SELECT id FROM penstock.recoveries WHERE type = %s AND ended_at IS NULL AND outcome IS NULL"
            " AND last_activity <= %s AND (claimed_until IS NULL OR claimed_until <= %s) AND key::text <> ALL (%s)"
            " ORDER BY last_activity LIMIT %s",
            [rule.record.name, self._now - rule.abandon_after, self._now, list(spoken), limit],
        ).fetchall()
        return sum(self._begin_one(rule, int(str(recovery))) for (recovery,) in due)

    def finish(self, limit: int) -> int:
        """
        Interrupt what is below records that were given up, also by a run that died over it, and end their recoveries.

        Args:
            limit: Rows at most; the next run goes on.

        Returns:
            How many rows were interrupted.
        """
        query = sql.SQL("SELECT {} FROM penstock.recoveries WHERE ended_at IS NULL AND outcome = {} ORDER BY id").format(
            COLUMNS, INTERRUPTED
        )
        with self._connection.cursor(row_factory=class_row(Recovery)) as cursor:
            given_up = cursor.execute(query).fetchall()
        rows = 0
        for recovery in given_up:
            rows += self._interrupt_below(recovery, limit - rows)
            if rows >= limit:
                break
            self._connection.execute(
                "UPDATE penstock.recoveries SET ended_at = %s, ended_by = 'scan' WHERE id = %s", [self._now, recovery.id]
            )
        return rows

    def _begin_one(self, rule: Rule, recovery: int) -> bool:
        with self._connection.transaction():
            found = self._connection.execute(
                "SELECT key FROM penstock.recoveries WHERE id = %s AND ended_at IS NULL AND outcome IS NULL"
                " AND (claimed_until IS NULL OR claimed_until <= %s) FOR UPDATE",
                [recovery, self._now],
            ).fetchone()
            if found is None:
                return False
            # Whether it is still silent is asked once nobody else can write it; what has changed is the next look's.
            is_silent = sql.SQL("{} <= {}").format(
                activity(self._registry, rule.record), sql.Literal(self._now - rule.abandon_after)
            )
            if not _Writer(self._registry, rule).write(self._connection, [found[0]], is_silent):  # type: ignore[list-item]
                return False
            self._connection.execute(
                "UPDATE penstock.recoveries SET outcome = %s, state = %s, claimed_by = NULL, claim = NULL, claimed_until = NULL"
                " WHERE id = %s",
                [INTERRUPTED, INTERRUPTED, recovery],
            )
            return True

    def _interrupt_below(self, recovery: Recovery, limit: int) -> int:
        rule = self._rules.get(recovery.type)
        rows = 0
        for descent in descents(self._registry, rule.record) if rule else ():
            below = self._rules.get(descent.record.name)
            while rule and below and rows < limit:
                written = self._interrupt_some(recovery, rule, descent, below, min(CHUNK_ROWS, limit - rows))
                rows += written
                if not written:
                    break
        return rows

    def _interrupt_some(self, recovery: Recovery, root: Rule, descent: Descent, rule: Rule, limit: int) -> int:
        """
        Only as long as the record itself is interrupted: where it lives again, so does what is below it. And only what is still
        as silent as all of it was when it was given up: what has come since is found by itself, if it stops too.
        """

        def is_silent(row: str) -> sql.Composed:
            return sql.SQL("{}._stored_at <= {}").format(sql.Identifier(row), sql.Literal(self._now - root.abandon_after))

        keys = self._connection.execute(
            sql.SQL(
                "SELECT {key} FROM {table} AS r CROSS JOIN LATERAL (SELECT below.* {rows} AND below._version IS NOT NULL"
                " AND {is_silent} AND {is_open}) AS below"
                " WHERE {same_key} AND {state} = {interrupted} ORDER BY {order} LIMIT {limit}"
            ).format(
                key=key_as_json(rule.record, "below"),
                table=table_of(root.record),
                rows=descent.rows("below"),
                is_silent=is_silent("below"),
                is_open=is_open(rule, "below"),
                same_key=same_key(root.record, sql.Literal(Jsonb(recovery.key))),
                state=state_of(root),
                interrupted=INTERRUPTED,
                order=_columns(rule.record, "below"),
                limit=limit,
            )
        ).fetchall()
        with self._connection.transaction():
            return _Writer(self._registry, rule).write(self._connection, [key for (key,) in keys], is_silent("r"))  # type: ignore[misc]


class _Writer:
    """Writes `interrupted` into rows of one type."""

    def __init__(self, registry: Registry, rule: Rule) -> None:
        self._registry, self._rule, self._plan = registry, rule, UpsertPlan(rule.record)

    def write(self, connection: Connection, keys: list[list[str]], condition: sql.Composable) -> int:
        """
        Interrupt the open ones of these rows for which the condition holds.

        Args:
            connection: In a transaction that the caller owns.
            keys: Of the rows.
            condition: About the row `r`.

        Returns:
            How many were.
        """
        is_wanted = self._is_wanted(keys)
        # Locked first, in the order of their keys as workers do: what retention removes meanwhile would come back as a new row.
        connection.execute(
            sql.SQL("SELECT FROM {} AS r WHERE {} ORDER BY {} FOR NO KEY UPDATE").format(
                table_of(self._rule.record), is_wanted, _columns(self._rule.record, "r")
            )
        )
        rows = sql.SQL("(SELECT {} {} AND {} AND {} AND {} ORDER BY {})").format(
            sql.SQL(", ".join(self._staged)),
            visible_rows(self._rule.record, self._registry),
            is_wanted,
            is_open(self._rule),
            condition,
            _columns(self._rule.record, "r"),
        )
        return connection.execute(self._plan.upsert_from(rows.as_string(connection)).encode()).rowcount

    def _is_wanted(self, keys: list[list[str]]) -> sql.Composed:
        record = self._rule.record
        typed = sql.SQL(", ").join(
            sql.SQL("(k ->> {})::{}").format(place, sql.SQL(str(record.by_name[name].kind)))
            for place, name in enumerate(record.key)
        )
        return sql.SQL("({}) IN (SELECT {} FROM unnest({}::jsonb[]) AS k)").format(
            _columns(record, "r"), typed, sql.Literal([Jsonb(key) for key in keys])
        )

    @cached_property
    def _staged(self) -> list[str]:
        """What an event would be staged as that says the state and nothing else, just after the state's own."""
        state = self._rule.lifecycle.field
        stamp = f"coalesce({self._plan.state_stamp('r')}, '0') || '+'"
        said = {name: f"r.{quote(name)}" for name in (*self._rule.record.key, "_version", "_event")}
        said |= {state: literal(INTERRUPTED), "_stamps": f"jsonb_build_object({literal(state)}, {stamp})"}
        return [f"{said.get(name, f'NULL::{kind}')} AS {quote(name)}" for name, kind in self._plan.types.items()]


def _columns(record: RecordType, alias: str) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(alias, name) for name in record.key)
