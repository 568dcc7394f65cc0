"""Which answer an error of PostgreSQL gets."""

from __future__ import annotations

import re

import psycopg
import pytest
from psycopg import errors

from penstock_worker.store.sqlstate import NOT_A_ROWS, Answer, answer_to

EXPECTED = {
    "22021": Answer.EVENT,  # a NUL character
    "22P05": Answer.EVENT,
    "22008": Answer.EVENT,
    "54000": Answer.EVENT,
    "54001": Answer.EVENT,
    "23503": Answer.OURS,
    "23505": Answer.OURS,
    "23514": Answer.OURS,
    "40001": Answer.RETRY,
    "40P01": Answer.RETRY,
    "55P03": Answer.RETRY,
    "0A000": Answer.RECONNECT,
    "42P01": Answer.TABLE,
    "42703": Answer.TABLE,
    "3F000": Answer.TABLE,
    "42501": Answer.TABLE,
    "28P01": Answer.REFUSED,
    "3D000": Answer.REFUSED,
    "08006": Answer.AWAY,
    "53100": Answer.AWAY,
    "53300": Answer.AWAY,
    "57014": Answer.AWAY,
    "57P01": Answer.AWAY,
    "57P03": Answer.AWAY,
    "25006": Answer.AWAY,
    "58030": Answer.AWAY,
    "21000": Answer.UNKNOWN,
    "XX000": Answer.UNKNOWN,
}


@pytest.mark.parametrize(("state", "answer"), EXPECTED.items())
def test_each_state_has_its_answer(state: str, answer: Answer) -> None:
    assert answer_to(errors.lookup(state)("as told")) is answer


def test_a_broken_connection_has_no_state_and_is_away() -> None:
    assert answer_to(psycopg.OperationalError("server closed the connection unexpectedly")) is Answer.AWAY
    assert answer_to(psycopg.InterfaceError("the connection is closed")) is Answer.AWAY


def test_an_error_of_the_driver_is_unknown() -> None:
    assert answer_to(psycopg.ProgrammingError("too many parameters")) is Answer.UNKNOWN
    assert answer_to(psycopg.DataError("a value does not fit")) is Answer.UNKNOWN


@pytest.mark.parametrize(("state", "answer"), EXPECTED.items())
def test_a_search_goes_on_only_after_errors_of_one_row(state: str, answer: Answer) -> None:
    assert bool(re.search(NOT_A_ROWS, state)) == (answer not in (Answer.EVENT, Answer.OURS, Answer.UNKNOWN))
