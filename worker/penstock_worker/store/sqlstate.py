"""What to do about an error of PostgreSQL, by its SQLSTATE: one table, read top to bottom."""

from __future__ import annotations

import enum

import psycopg

__all__ = ["NOT_A_ROWS", "Answer", "answer_to", "answer_to_state"]


class Answer(enum.Enum):
    """Who is to blame, and so what happens next."""

    EVENT = "the event can never be stored: find it, it is dead"
    OURS = "not the event's fault: try once more, then find and hold it"
    RETRY = "try the transaction again"
    RECONNECT = "try the transaction again over a new connection"
    #: Of Penstock's own tables: pause, alarm; but if they take a batch without events, find the message and hold it.
    TABLE = "the table does not fit, or we may not write it: hold its events, alarm"
    AWAY = "the database is away: give back, pause, probe"
    REFUSED = "the database refuses us: give back, pause, alarm"
    UNKNOWN = "find it, then hold it"


#: Prefixes of SQLSTATE, the longer ones first. Class 22 is "data exception"; see PostgreSQL's appendix A, Error Codes.
_ANSWERS: dict[str, Answer] = {
    "54000": Answer.EVENT,  # program limit: a key too long for an index
    "54001": Answer.EVENT,  # statement too complex: JSON nested too deeply
    "23503": Answer.OURS,  # foreign key: the parent was purged between our look and our insert
    "23505": Answer.OURS,  # unique: there is none beside the key
    "23514": Answer.OURS,  # no partition for the row
    "40001": Answer.RETRY,
    "40P01": Answer.RETRY,
    "55P03": Answer.RETRY,
    "57014": Answer.AWAY,  # statement timeout: overloaded, or stuck behind somebody's lock
    "0A000": Answer.RECONNECT,  # cached plan must not change result type
    "08": Answer.AWAY,
    "22": Answer.EVENT,
    "25006": Answer.AWAY,  # read-only: a standby, after a failover
    "28": Answer.REFUSED,
    "3D000": Answer.REFUSED,
    "3F000": Answer.TABLE,
    "42": Answer.TABLE,
    "53": Answer.AWAY,
    "57P": Answer.AWAY,
    "58": Answer.AWAY,
}


_OF_ONE_ROW = (Answer.EVENT, Answer.OURS, Answer.UNKNOWN)
#: A regular expression of the SQLSTATEs that say nothing about one row: the search for a culprit ends with them.
NOT_A_ROWS = f"^({'|'.join(prefix for prefix, answer in _ANSWERS.items() if answer not in _OF_ONE_ROW)})"


def answer_to(error: psycopg.Error) -> Answer:
    """The answer to an error; one without a SQLSTATE is a connection that broke."""
    if error.sqlstate is None:
        return Answer.AWAY if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) else Answer.UNKNOWN
    return answer_to_state(error.sqlstate)


def answer_to_state(state: str) -> Answer:
    """The answer to a SQLSTATE."""
    return next((answer for prefix, answer in _ANSWERS.items() if state.startswith(prefix)), Answer.UNKNOWN)
