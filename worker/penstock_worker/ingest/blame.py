"""Which verdict an error of the database is on the event that caused it."""

from __future__ import annotations

import psycopg

from penstock_worker.ingest.outcome import Outcome, Verdict
from penstock_worker.store.sqlstate import Answer, answer_to

__all__ = ["TABLE_DOES_NOT_FIT", "blame", "one_line", "verdict_on"]

#: The reason of events whose table is missing or lacks a column: a migration away from being stored.
TABLE_DOES_NOT_FIT = "table_does_not_fit"


def blame(exc: psycopg.Error | ValueError) -> Verdict:
    """The verdict on the culprit; errors that are nobody's fault are raised on."""
    if not isinstance(exc, psycopg.Error):
        return Verdict(Outcome.DEAD, "invalid", one_line(exc))
    answer = answer_to(exc)
    if answer is Answer.EVENT:
        return verdict_on(exc, Outcome.DEAD, "refused_by_database")
    if answer is Answer.OURS:
        return verdict_on(exc, Outcome.HELD, "constraint")
    if answer is Answer.TABLE:
        return verdict_on(exc, Outcome.HELD, TABLE_DOES_NOT_FIT)
    if answer is Answer.UNKNOWN:
        return verdict_on(exc, Outcome.HELD, "unknown_error")
    raise exc


def verdict_on(exc: psycopg.Error, outcome: Outcome, reason: str) -> Verdict:
    """A verdict that tells what PostgreSQL said."""
    diagnostics = exc.diag
    return Verdict(outcome, reason, one_line(exc), exc.sqlstate, diagnostics.constraint_name, diagnostics.column_name)


def one_line(exc: Exception) -> str:
    """An error as one line of at most 500 characters."""
    return " ".join(str(exc).split())[:500]
