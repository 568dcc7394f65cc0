"""
Folding the ledger: many rows that say the same of numbers that touch become few. And forgetting epochs that are long over.

Folded are the rows of one epoch and one hour that is over, in one statement: whoever reads the ledger meanwhile sees all of the
old rows or all of the new ones, whoever inserts is not waited for, and of two folds at once one finds the rows gone. Nothing
that is asked of the ledger is answered otherwise afterwards, but for the time within the hour at which a number was told:

| who asks                          | needs, see `gaps`               | so a fold                                         |
|-----------------------------------|---------------------------------|---------------------------------------------------|
| what became of a number, and why  | its outcomes and reasons        | joins only what has the same outcome and reason   |
| since when a gap is known         | the first time above it         | gives a joined run the first time of its parts    |
| when what is below a gap was told | the time of the last row there  | leaves the last part of a run a row of its own    |
| when an epoch was last heard of   | its last time                   | leaves the row that was told last as it is        |

A run never reaches over a gap, so that all of it is above or below.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from penstock_worker.store.connection import Connection

__all__ = ["Heap", "find_heaps", "fold_heap", "forget_epoch"]


class Heap(NamedTuple):
    """The rows of an epoch from the hour that begins at `hour`: so many, which would be `folded` at most."""

    epoch: UUID
    hour: datetime
    rows: int
    folded: int


#: A heap is worth the work where at least half of its rows go; so what was folded is left alone.
_HEAPS = """
    WITH groups AS (
        SELECT epoch, date_trunc('hour', at) AS hour, count(*) AS rows, range_agg(seqs) AS seqs FROM penstock.ledger
        WHERE at < date_trunc('hour', %(now)s::timestamptz) GROUP BY epoch, hour, outcome, reason
    ),
    heaps AS (
        SELECT epoch, hour, sum(rows)::bigint AS rows, 1 + 2 * sum((SELECT count(*) FROM unnest(seqs)))::bigint AS folded
        FROM groups GROUP BY epoch, hour
    )
    SELECT epoch, hour, rows, folded FROM heaps WHERE rows >= 2 * folded ORDER BY rows DESC
"""

#: Rows that are equal in all but their place are peers, and so in one run.
_FOLD = """
    WITH gone AS (
        DELETE FROM penstock.ledger
        WHERE epoch = %(epoch)s AND at >= %(hour)s AND at < %(hour)s::timestamptz + interval '1 hour'
        RETURNING seqs, outcome, reason, at
    ),
    told AS (SELECT *, row_number() OVER (ORDER BY at DESC, lower(seqs) DESC) = 1 AS is_last_told FROM gone),
    steps AS (
        SELECT *, lower(seqs) > max(upper(seqs)) OVER (same ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS begins_run
        FROM told WHERE NOT is_last_told WINDOW same AS (PARTITION BY outcome, reason ORDER BY seqs, at)
    ),
    parts AS (
        SELECT *, count(*) FILTER (WHERE begins_run) OVER same AS run
        FROM steps WINDOW same AS (PARTITION BY outcome, reason ORDER BY seqs, at)
    ),
    runs AS (
        SELECT outcome, reason, min(lower(seqs)) AS first, max(lower(seqs)) AS last, max(upper(seqs)) AS beyond,
               min(at) AS first_at, (array_agg(at ORDER BY lower(seqs) DESC, at))[1] AS last_at
        FROM parts GROUP BY outcome, reason, run
    ),
    folded AS (
        SELECT int8range(first, CASE WHEN last > first THEN last ELSE beyond END) AS seqs, outcome, reason, first_at AS at
        FROM runs
        UNION ALL SELECT int8range(last, beyond), outcome, reason, last_at FROM runs WHERE last > first
        UNION ALL SELECT seqs, outcome, reason, at FROM told WHERE is_last_told
    ),
    written AS (
        INSERT INTO penstock.ledger (epoch, seqs, outcome, reason, at)
        SELECT %(epoch)s, seqs, outcome, reason, at FROM folded RETURNING 1
    )
    SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM written)
"""


def find_heaps(connection: Connection, now: datetime) -> list[Heap]:
    """What is worth folding, the largest first. One pass over the ledger."""
    with connection.transaction():
        connection.execute("SET LOCAL statement_timeout = 0")
        return [Heap(*row) for row in connection.execute(_HEAPS, {"now": now}).fetchall()]  # type: ignore[arg-type]  # known types


def fold_heap(connection: Connection, heap: Heap) -> tuple[int, int]:
    """Fold it; rows before and after."""
    with connection.transaction():
        connection.execute("SET LOCAL statement_timeout = 0")
        row = connection.execute(_FOLD, {"epoch": heap.epoch, "hour": heap.hour}).fetchone()
    assert row is not None  # a SELECT without FROM has a row
    return int(str(row[0])), int(str(row[1]))


def forget_epoch(connection: Connection, epoch: UUID, heard_before: datetime, *, is_dry_run: bool = False) -> int | None:
    """
    Delete what is known of an epoch, unless it was heard of since, or has a letter that is held.

    Returns:
        How many rows of the ledger that were; None if it stays.
    """
    values = {"epoch": epoch, "before": heard_before}
    with connection.transaction(force_rollback=is_dry_run):
        # A batch that tells of the epoch has this row; when it has ended, the epoch was heard of.
        connection.execute("SELECT FROM penstock.producers WHERE epoch = %(epoch)s FOR UPDATE", values)
        if connection.execute(_IS_NEEDED, values).fetchone() == (True,):
            return None
        gone = connection.execute("DELETE FROM penstock.ledger WHERE epoch = %(epoch)s", values).rowcount
        connection.execute("DELETE FROM penstock.producers WHERE epoch = %(epoch)s", values)
        return gone


_IS_NEEDED = """
    SELECT EXISTS (SELECT FROM penstock.producers WHERE epoch = %(epoch)s AND last_seen >= %(before)s)
        OR EXISTS (SELECT FROM penstock.ledger WHERE epoch = %(epoch)s AND at >= %(before)s)
        OR EXISTS (SELECT FROM penstock.dead_letters WHERE epoch = %(epoch)s AND state = 'held')
"""
