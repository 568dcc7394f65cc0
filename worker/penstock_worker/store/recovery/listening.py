"""
Since when the scan listens without a break: silence counts from then on, and only then.

A scan that finds events waiting, the broker away or no worker at work is deaf, and so is the time between two scans that lie
far apart: what a service has sent may not be in the tables yet. Each such moment counts as activity of every record. So after
an outage `stale_after` begins anew, and nobody who lives is called dead because the pipe was blocked.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from penstock_worker.store.connection import Connection
from penstock_worker.store.recovery.rules import Rule

__all__ = ["Ear", "note_look", "note_page"]


@dataclass(frozen=True, slots=True)
class Ear:
    """What is known of the scans of one type: `page` is where the next one goes on."""

    rule: Rule
    page: int
    listens_since: datetime

    def may_conclude(self, now: datetime) -> bool:
        """Whether silence means anything: everything that was on its way has had its time to come."""
        return now - self.listens_since >= self.rule.stale_after


def note_look(connection: Connection, rule: Rule, now: datetime, *, is_deaf: bool, longest_pause: timedelta) -> Ear:
    """
    Note a look at the queue.

    Args:
        connection: In autocommit.
        rule: Of the type.
        now: The time of the look.
        is_deaf: Events of the type may wait somewhere.
        longest_pause: Between two looks that count as listening without a break.
    """
    row = connection.execute(
        "INSERT INTO penstock.recovery_scans AS s (type, listens_since, looked_at) VALUES (%s, %s, %s)"
        " ON CONFLICT (type) DO UPDATE SET looked_at = excluded.looked_at, listens_since = CASE WHEN %s"
        " OR excluded.looked_at - s.looked_at > %s OR excluded.looked_at < s.listens_since"
        " THEN excluded.looked_at ELSE s.listens_since END RETURNING page, listens_since",
        [rule.record.name, now, now, is_deaf, longest_pause],
    ).fetchone()
    assert row is not None  # RETURNING gives a row
    return Ear(rule, row[0], row[1])  # type: ignore[arg-type]  # the table's columns


def note_page(connection: Connection, rule: Rule, page: int) -> None:
    """Note how far the search has come."""
    connection.execute("UPDATE penstock.recovery_scans SET page = %s WHERE type = %s", [page, rule.record.name])
