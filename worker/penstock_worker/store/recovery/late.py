"""
What came late: recoveries whose record has ended, or is active again, end by themselves.

Activity while somebody holds the claim is mostly his own: were it an end, another one could take the record from under him
after the next silence. So it ends the recovery when the claim is over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from psycopg import sql

from penstock_schemas.registry import Registry
from penstock_worker.store.connection import Connection
from penstock_worker.store.queries import visible_rows
from penstock_worker.store.recovery.rules import INTERRUPTED, Rule
from penstock_worker.store.recovery.tree import activity, same_key, state_of

__all__ = ["end_by_themselves"]


class _Seen(NamedTuple):
    """An open recovery, and its record as it is now."""

    id: int
    found_activity: datetime
    is_held: bool
    is_there: bool | None
    state: str | None
    activity: datetime | None


def end_by_themselves(connection: Connection, registry: Registry, rule: Rule, now: datetime, limit: int) -> Counter[str]:
    """
    Look at the open recoveries of a type, those first that were not looked at for longest, and end the ones that are over.

    Returns:
        How many ended, by outcome. A claim on them ends with them; those that are only active again wait for its end.
    """
    seen = _look(connection, registry, rule, now, limit)
    endings = [_ending(rule, one) for one in seen]
    connection.execute(
        "UPDATE penstock.recoveries AS r SET checked_at = %(now)s, state = coalesce(found.state, r.state),"
        " outcome = found.outcome, ended_by = CASE WHEN found.outcome IS NOT NULL THEN 'scan' END,"
        " ended_at = CASE WHEN found.outcome IS NOT NULL THEN %(now)s::timestamptz END"
        " FROM unnest(%(ids)s::bigint[], %(states)s::text[], %(outcomes)s::text[]) AS found (id, state, outcome)"
        " WHERE r.id = found.id AND r.ended_at IS NULL AND r.outcome IS NULL",
        {"now": now, "ids": [one.id for one in seen], "states": [one.state for one in seen], "outcomes": endings},
    )
    return _count(endings)


def _look(connection: Connection, registry: Registry, rule: Rule, now: datetime, limit: int) -> list[_Seen]:
    query = sql.SQL("""
        SELECT o.id, o.last_activity, coalesce(o.claimed_until > {now}, false), found.is_there, found.state, found.at
        FROM (SELECT id, key, last_activity, claimed_until FROM penstock.recoveries
              WHERE type = {type} AND ended_at IS NULL AND outcome IS NULL ORDER BY checked_at LIMIT {limit}) AS o
        LEFT JOIN LATERAL (SELECT true AS is_there, {state} AS state, {activity} AS at {visible} AND {same_key}) AS found
        ON true
    """).format(
        type=rule.record.name,
        now=now,
        limit=limit,
        state=state_of(rule),
        activity=activity(registry, rule.record),
        visible=visible_rows(rule.record, registry),
        same_key=same_key(rule.record, sql.SQL("o.key")),
    )
    return [_Seen(*row) for row in connection.execute(query).fetchall()]  # type: ignore[arg-type]  # the columns above


def _ending(rule: Rule, seen: _Seen) -> str | None:
    """How a recovery has ended, or None where it has not."""
    if not seen.is_there or seen.activity is None:
        return "gone"
    if seen.state in rule.lifecycle.terminal:
        return "completed"
    if seen.state == INTERRUPTED:  # with its parent
        return INTERRUPTED
    return "active again" if seen.activity > seen.found_activity and not seen.is_held else None


def _count(endings: Iterable[str | None]) -> Counter[str]:
    return Counter(ending for ending in endings if ending is not None)
