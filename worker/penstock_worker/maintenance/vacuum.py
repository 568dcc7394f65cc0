"""The job that vacuums what autovacuum has left, and refreshes the planner's statistics."""

from __future__ import annotations

import time
from typing import Any

from penstock_worker.maintenance.job import Work
from penstock_worker.store.named_tables import all_tables, find_table
from penstock_worker.store.vacuum import Part, count_dead_rows, list_parts, unhurried, vacuum_part

__all__ = ["vacuum_tables"]


def vacuum_tables(work: Work) -> dict[str, Any]:
    """
    VACUUM (ANALYZE) the tables that the argument `tables` names, or all, a partition at a time; safe to run twice.

    A run begins no table after `vacuum_time_limit_s`; the next one begins with those that waited longest. A table that somebody
    has locked is left out.

    Returns:
        How many were done, which not and why, and dead rows before and after. Rows that are dead afterwards are still seen by
        an open transaction, or died meanwhile.

    Raises:
        ConfigurationError: There is no such table.
    """
    named = [find_table(work.registry, name) for name in work.arguments.get("tables") or ()]
    parts = list_parts(work.connection, named or all_tables(work.registry))
    skipped: dict[str, str] = {}
    dead: dict[str, dict[str, int]] = {}
    done, until = 0, time.monotonic() + work.settings.vacuum_time_limit_s
    with unhurried(work.connection):
        for part in parts:
            if done and time.monotonic() > until:
                break
            before = count_dead_rows(work.connection, part)
            why = vacuum_part(work.connection, part)
            if why:
                skipped[part.full_name] = why
            _add(dead, part, before, count_dead_rows(work.connection, part))
            done += 1
            work.progress(done, len(parts))
    return {
        "vacuumed": done - len(skipped),
        "left": len(parts) - done,
        "dead_before": sum(counts["before"] for counts in dead.values()),
        "dead_after": sum(counts["after"] for counts in dead.values()),
        "tables": dead,
        "skipped": skipped,
    }


def _add(dead: dict[str, dict[str, int]], part: Part, before: int, after: int) -> None:
    """To the counts of its table, partitions summed up; tables without dead rows are not listed."""
    if before or after:
        counts = dead.setdefault(part.table, {"before": 0, "after": 0})
        counts["before"] += before
        counts["after"] += after
