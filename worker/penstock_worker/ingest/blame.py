"""Which verdict an error of the database is on the event that caused it."""

from __future__ import annotations

import logging

import psycopg

from penstock_worker.ingest.outcome import Outcome, Verdict
from penstock_worker.store.sqlstate import Answer, answer_to

__all__ = ["blame", "is_of_table", "log_refusal", "one_line", "verdict_on_table"]

logger = logging.getLogger(__name__)

#: The SQLSTATE of a missing GRANT.
_NOT_PERMITTED = "42501"


def blame(exc: psycopg.Error | ValueError) -> Verdict:
    """The verdict on the culprit; errors that are nobody's fault are raised on."""
    if not isinstance(exc, psycopg.Error):
        return Verdict(Outcome.DEAD, "invalid", one_line(exc))
    answer = answer_to(exc)
    if answer is Answer.EVENT:
        return _verdict_on(exc, Outcome.DEAD, "refused_by_database")
    if answer is Answer.OURS:
        return _verdict_on(exc, Outcome.HELD, "constraint")
    if answer is Answer.TABLE:
        return verdict_on_table(exc)
    if answer is Answer.UNKNOWN:
        return _verdict_on(exc, Outcome.HELD, "unknown_error")
    raise exc


def is_of_table(exc: psycopg.Error | ValueError) -> bool:
    """Whether all events of the table meet this error."""
    return isinstance(exc, psycopg.Error) and answer_to(exc) is Answer.TABLE


def verdict_on_table(exc: psycopg.Error) -> Verdict:
    """The verdict on all events of a table that lacks something: they are a migration, or a GRANT, away from being stored."""
    return _verdict_on(exc, Outcome.HELD, "not_permitted" if exc.sqlstate == _NOT_PERMITTED else "table_does_not_fit")


def log_refusal(exc: psycopg.Error) -> None:
    """Alarm if it is no outage, but something that a person must change."""
    if answer_to(exc) in (Answer.REFUSED, Answer.TABLE):
        logger.error("the database refuses this worker: %s", one_line(exc), extra={"action": "refused"})


def _verdict_on(exc: psycopg.Error, outcome: Outcome, reason: str) -> Verdict:
    """A verdict that tells what PostgreSQL said."""
    diagnostics = exc.diag
    return Verdict(outcome, reason, one_line(exc), exc.sqlstate, diagnostics.constraint_name, diagnostics.column_name)


def one_line(exc: Exception) -> str:
    """An error as one line of at most 500 characters."""
    return " ".join(str(exc).split())[:500]
