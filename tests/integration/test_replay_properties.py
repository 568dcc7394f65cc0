"""
Replaying everything once its cause is gone equals having stored it at first.

The same sets of events and deliveries as in test_merge_properties.py, to a worker that lacks some record types; then one that
has all replays the letters. Tables, letters and the folded ledger are those of the reference model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_schemas.registry import Registry
from penstock_worker.ingest.write import Writer
from penstock_worker.letters.replay import Replay
from penstock_worker.store.ledger import fold
from penstock_worker.store.letter_filter import LetterFilter
from tests.cases import Delivery, Picker, pick_delivery, pick_events
from tests.lab import Lab, differences
from tests.records import RECORDS
from tests.servers.databases import PostgresServer

SEARCH = int(os.environ.get("PENSTOCK_TEST_EXAMPLES", "0"))
#: What a worker of the release before may know: without some types, and without those that need them.
LACKING = (
    {"lab.run", "lab.remark", "lab.pair"},
    {"lab.note", "lab.remark", "lab.reading"},
    {"lab.site", "lab.run", "lab.note", "lab.remark"},
    {"lab.run", "lab.note", "lab.remark", "lab.reading", "lab.mark", "lab.tally", "lab.pair"},
)


class LateLab(Lab):
    """Delivers to writers that lack types, and replays what they held."""

    def __init__(self, url: str) -> None:
        super().__init__(url, connections=1)
        self._full = self.writers
        self._poor = [
            Writer(self._full[0].database, Registry(r for r in RECORDS if r.__record__.type not in lacking), self._settings)
            for lacking in LACKING
        ]
        self.chosen = 0
        self.page_letters = 500

    def deliver(self, delivery: Delivery) -> dict[str, int]:
        self.writers = [self._poor[self.chosen]]
        totals = super().deliver(delivery)
        self.writers = self._full
        Replay(self._full[0], page_letters=self.page_letters).run(LetterFilter())
        return totals

    def ledger(self) -> set[tuple[str, int, str]]:
        """Each event once, by its strongest outcome."""
        merged: Any = {"stored": "merged", "superseded": "merged"}
        return {
            (str(part.epoch), number, merged.get(part.outcome, part.outcome))
            for part in fold(self._connection)
            for numbers in part.seqs
            for number in range(numbers.lower, numbers.upper)
        }


@pytest.fixture(scope="module")
def lab(postgres_server: PostgresServer) -> Iterator[LateLab]:
    url = postgres_server.create_database()
    lab = LateLab(url)
    yield lab
    lab.close()
    postgres_server.drop_database(url)


@st.composite
def cases(draw):
    pick = Picker(lambda low, high: draw(st.integers(low, high)))
    events = pick_events(pick)
    delivery = pick_delivery(pick, events, 1, cut_one_in=pick.one((2, 1, 1000)))
    return events, delivery, pick.integer(0, len(LACKING) - 1), pick.one((500, 1, 3))


@settings(max_examples=SEARCH or 80, derandomize=not SEARCH)
@given(case=cases())
def test_replayed_equals_stored_at_first(lab, case):
    events, delivery, lab.chosen, lab.page_letters = case
    assert differences(lab, events, delivery) == {}
