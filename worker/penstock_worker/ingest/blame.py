"""Which verdict an error of the database is on the event that caused it."""

from __future__ import annotations

import logging

import psycopg

from penstock_worker.ingest.outcome import Outcome, Verdict
from penstock_worker.store.careful import Refusal
from penstock_worker.store.foreign_text import storable
from penstock_worker.store.sqlstate import Answer, answer_to, answer_to_state

__all__ = ["blame", "is_of_table", "log_refusal", "one_line", "squeezed", "verdict_on_table"]

logger = logging.getLogger(__name__)

#: The SQLSTATE of a missing GRANT.
_NOT_PERMITTED = "42501"


_VERDICTS = {
    Answer.EVENT: (Outcome.DEAD, "refused_by_database"),
    Answer.OURS: (Outcome.HELD, "constraint"),
    Answer.UNKNOWN: (Outcome.HELD, "unknown_error"),
}


def blame(refusal: Refusal) -> Verdict:
    """The verdict on a row that PostgreSQL refused."""
    outcome, reason = _VERDICTS[answer_to_state(refusal.sqlstate)]
    detail = squeezed(f"{refusal.message}: {refusal.detail}" if refusal.detail else refusal.message)
    return Verdict(outcome, reason, detail, refusal.sqlstate, refusal.constraint or None, refusal.column or None)


def is_of_table(exc: psycopg.Error | ValueError) -> bool:
    """Whether all events of the table meet this error."""
    return isinstance(exc, psycopg.Error) and answer_to(exc) is Answer.TABLE


def verdict_on_table(exc: psycopg.Error) -> Verdict:
    """The verdict on all events of a table that lacks something: they are a migration, or a GRANT, away from being stored."""
    reason = "not_permitted" if exc.sqlstate == _NOT_PERMITTED else "table_does_not_fit"
    return Verdict(Outcome.HELD, reason, one_line(exc), exc.sqlstate, exc.diag.constraint_name, exc.diag.column_name)


def log_refusal(exc: psycopg.Error) -> None:
    """Alarm if it is no outage, but something that a person must change."""
    if answer_to(exc) in (Answer.REFUSED, Answer.TABLE):
        logger.error("the database refuses this worker: %s", one_line(exc), extra={"action": "refused"})


def one_line(exc: Exception) -> str:
    """An error as one line of at most 500 characters."""
    return squeezed(str(exc))


def squeezed(text: str) -> str:
    """A text as one line of at most 500 characters, as it can be stored and shown."""
    return storable(" ".join(text.split()))[:500].rstrip()
