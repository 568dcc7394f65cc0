"""
Promise 3: the tables are a function of the set of events, whatever their order, repetition and batches.

Every example is delivered to a real database and compared with the reference model in tests/model.py: data, stamps,
tombstones, placeholders, dead letters and ledger. `make test` tries the same examples every time;
`PENSTOCK_TEST_EXAMPLES=5000 pytest tests/integration/test_merge_properties.py` looks for new ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cases import Picker, pick_delivery, pick_events, with_culprits
from tests.lab import Lab, differences
from tests.servers.databases import PostgresServer

SEARCH = int(os.environ.get("PENSTOCK_TEST_EXAMPLES", "0"))


@pytest.fixture(scope="module")
def lab(postgres_server: PostgresServer) -> Iterator[Lab]:
    url = postgres_server.create_database()
    lab = Lab(url)
    yield lab
    lab.close()
    postgres_server.drop_database(url)


@st.composite
def cases(draw, connections, *, has_culprits=False):
    """A set of events and a way to deliver it."""
    pick = Picker(lambda low, high: draw(st.integers(low, high)))
    events = pick_events(pick)
    if has_culprits:
        events = with_culprits(pick, events)
    return events, pick_delivery(pick, events, connections, cut_one_in=pick.one((2, 1, 1000)))


@settings(max_examples=SEARCH or 250, derandomize=not SEARCH)
@given(case=cases(connections=1))
def test_one_connection_in_any_order_and_batches(lab, case):
    assert differences(lab, *case) == {}


@settings(max_examples=SEARCH or 120, derandomize=not SEARCH)
@given(case=cases(connections=2))
def test_two_connections_at_once(lab, case):
    assert differences(lab, *case) == {}


@settings(max_examples=SEARCH or 60, derandomize=not SEARCH)
@given(case=cases(connections=1, has_culprits=True))
def test_what_only_the_database_refuses_harms_no_neighbour(lab, case):
    assert differences(lab, *case) == {}
