"""The ledger folded: every event counts once, whatever was noted of it and how often."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range

from penstock_schemas.answer import PRECEDENCE
from penstock_worker.ingest.outcome import Outcome
from penstock_worker.store.ledger import Entry, find_outcomes, fold, record_entries

EPOCH, OTHER, STRANGER = UUID(int=1), UUID(int=2), UUID(int=3)


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def note(connection: psycopg.Connection, *entries: tuple[UUID, str, int, int]) -> None:
    record_entries(connection, [Entry(epoch, outcome, None, first, last) for epoch, outcome, first, last in entries])


def told(found: list) -> dict[tuple[UUID, str], list[tuple[int, int]]]:
    return {(epoch, outcome): [(part.lower, part.upper - 1) for part in seqs] for epoch, outcome, seqs in found}


def test_every_outcome_has_its_place():
    assert set(PRECEDENCE) == {outcome.value for outcome in Outcome}


@pytest.mark.parametrize("weaker", range(1, len(PRECEDENCE)))
def test_of_two_outcomes_the_stronger_counts(connection, weaker):
    """In either order, and the weaker one keeps what is its alone."""
    strong, weak = PRECEDENCE[weaker - 1 : weaker + 1]
    note(connection, (EPOCH, weak, 0, 9), (EPOCH, strong, 5, 7), (EPOCH, weak, 6, 6))

    assert told(fold(connection)) == {(EPOCH, strong): [(5, 7)], (EPOCH, weak): [(0, 4), (8, 9)]}


def test_told_often_is_told_once(connection):
    note(connection, *[(EPOCH, "stored", 0, 9)] * 3, (EPOCH, "stored", 10, 12), (OTHER, "stored", 5, 5))

    assert told(fold(connection)) == {(EPOCH, "stored"): [(0, 12)], (OTHER, "stored"): [(5, 5)]}
    assert told(fold(connection, [OTHER, STRANGER])) == {(OTHER, "stored"): [(5, 5)]}


def test_what_was_asked_is_cut_out(connection):
    """Also when asked twice or overlapping; another epoch's numbers are not mixed in."""
    note(connection, (EPOCH, "stored", 0, 99), (EPOCH, "dead", 100, 100), (EPOCH, "dead", 50, 50), (OTHER, "held", 0, 50))
    asked = {EPOCH: [(10, 20), (15, 25), (50, 50), (100, 200)], OTHER: [(7, 7)], STRANGER: [(0, 5)]}

    found = find_outcomes(connection, asked)

    assert told(found) == {
        (EPOCH, "stored"): [(10, 25), (50, 50)],
        (EPOCH, "dead"): [(100, 100)],
        (OTHER, "held"): [(7, 7)],
    }
    assert find_outcomes(connection, {}) == []


def test_numbers_come_as_multiranges(connection):
    note(connection, (EPOCH, "stored", 0, 1))

    assert fold(connection)[0].seqs == Multirange([Range(0, 2)])
