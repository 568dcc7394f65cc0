"""
`interrupted` merges like an event: it replaces one state, and whatever is newer or terminal replaces it, in every order.

Random events are delivered in two parts, with an interruption between them; the row must be what the reference model makes of
all events, but for the state: that is `interrupted` unless an event tells one that is newer than what was replaced.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import Connection

from penstock_worker.store.recovery.interrupt import Interruption
from penstock_worker.store.recovery.rules import rules_of
from tests.cases import LATEST, TYPES, Delivery, Picker, pick_delivery, pick_events
from tests.lab import Lab
from tests.model import fold, stamp
from tests.records import REGISTRY
from tests.servers.databases import PostgresServer

SEARCH = int(os.environ.get("PENSTOCK_TEST_EXAMPLES", "0"))
RULES = rules_of(REGISTRY, "")
KINDS = ("lab.site", "lab.run")


@pytest.fixture(scope="module")
def lab(postgres_server: PostgresServer) -> Iterator[Lab]:
    url = postgres_server.create_database()
    lab = Lab(url, connections=1)
    yield lab
    lab.close()
    postgres_server.drop_database(url)


@st.composite
def parts(draw) -> tuple[Picker, list[Any], list[Any]]:
    """What comes before the interruption, and what after it; an event may be delivered in both."""
    pick = Picker(lambda low, high: draw(st.integers(low, high)))
    events = pick_events(pick, at_least=2, at_most=8, types=[pick.one(KINDS)])
    return pick, pick.some(events), events


@settings(max_examples=SEARCH or 40, derandomize=not SEARCH)
@given(case=parts())
def test_it_replaces_one_state_and_no_newer_one(lab: Lab, case: tuple[Picker, list[Any], list[Any]]) -> None:
    pick, before, events = case
    lab.clear()
    deliver(lab, pick, before)
    interrupt_all(lab._connection)
    deliver(lab, pick, events)
    replaced = replaced_marks(before)
    tables, _ = fold(TYPES, events, LATEST)
    rows = lab.rows()
    for kind in KINDS:
        for key, row in tables[kind].items():
            expected = dict(row)
            mark = mark_of_state(kind, key, events)
            if (kind, key) in replaced and row.get("_version") and (mark or "0") <= replaced[kind, key] + "+":
                expected["status"] = "interrupted"
            assert bare(rows[kind][key]) == bare(expected)


def deliver(lab: Lab, pick: Picker, events: list[Any]) -> None:
    """Each event in a message of its own, since those that are left out leave gaps; all in one batch, or each in its own."""
    delivery = pick_delivery(pick, events, connections=1, cut_one_in=1)
    wires = [wire for batch in delivery.connections[0] for wire in batch if wire.headers["count"] == 1]
    lab.deliver(Delivery((pick.one(([[wire] for wire in wires], [wires])),)))


def interrupt_all(connection: Connection[Any]) -> None:
    """All that are silent, which in the far future they all are."""
    for kind in KINDS:
        record = REGISTRY[kind].declaration
        connection.execute(
            "INSERT INTO penstock.recoveries (type, key, last_activity, checked_at) SELECT %s, jsonb_build_array("
            f"{record.key[0]}), now(), now() FROM {record.table}",
            [kind],
        )
    giving_up = Interruption(connection, REGISTRY, RULES, datetime(2300, 1, 1, tzinfo=UTC))
    for kind in KINDS:
        giving_up.begin(RULES[kind], (), 100)
    giving_up.finish(1_000)
    connection.execute("DELETE FROM penstock.recoveries")


def replaced_marks(events: list[Any]) -> dict[tuple[str, Any], str]:
    """The mark of the state that was replaced in each row that was interrupted: that lived, its state not terminal."""
    tables, _ = fold(TYPES, events, LATEST)
    return {
        (kind, key): mark_of_state(kind, key, events) or "0"
        for kind in KINDS
        for key, row in tables[kind].items()
        if row.get("_version") and row.get("status") not in TYPES[kind]["terminal"] and not has_fallen(tables, kind, row)
    }


def has_fallen(tables: Any, kind: str, row: dict[str, Any]) -> bool:
    """Whether a row is hidden, for its parent was deleted."""
    if TYPES[kind]["parent"] is None:
        return False
    field, parent = TYPES[kind]["parent"]
    return tables[parent].get((row[field],), {}).get("_deleted_version", -1) >= row["_oldest"]


def mark_of_state(kind: str, key: Any, events: list[Any]) -> str | None:
    """Rank and stamp of the event whose state a row has; None where none told any."""
    (name,), terminal = TYPES[kind]["key"], TYPES[kind]["terminal"]
    _, outcomes = fold(TYPES, events, LATEST)
    merged = {(epoch, seq): event_id for (epoch, seq, event_id), end in outcomes.items() if end == ("merged", None)}
    marks = [
        str(int(event["data"]["status"] in terminal)) + stamp(event | {"id": merged[event["epoch"], event["seq"]]})
        for event in events
        if event["type"] == kind
        and event["op"] == "upsert"
        and event["data"].get(name) == key[0]
        and "status" in event["data"]
        and (event["epoch"], event["seq"]) in merged
    ]
    return max(marks, default=None)


def bare(row: dict[str, Any]) -> dict[str, Any]:
    """Without the stamps, which tell of the interruption also where it was replaced since."""
    return {name: value for name, value in row.items() if name != "_stamps"}
