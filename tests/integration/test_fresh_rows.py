"""Batches of new rows go straight into their table; what that finds there is merged all the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest

from penstock_schemas.registry import load_registry
from penstock_schemas.wire import CONTENT_TYPE, Envelope, encode_event
from penstock_worker.ingest.message import RawMessage
from penstock_worker.ingest.write import Result, Writer
from penstock_worker.settings import Settings

_NULLS = (
    b'"user_id":null,"source_language":null,"target_language":null,"status":null,"completed_tasks":null,'
    b'"failed_tasks":null,"started_at":null,"ended_at":null,"metadata":null'
)


class Desk:
    """A writer, and full records of sessions for it."""

    def __init__(self, url: str) -> None:
        self.writer = Writer.of(Settings(database_url=url), load_registry())
        self.reader = psycopg.connect(url, autocommit=True)

    def write(self, *keys: str, version: int = 1, tasks: int = 0) -> Result:
        data = [b'{"session_id":"%b","total_tasks":%d,%b}' % (key.encode(), tasks, _NULLS) for key in keys]
        events = [encode_event("translation.session", "upsert", version, part) for part in data]
        return self.writer.write([RawMessage(Envelope("p", uuid4(), 0, events).body(), CONTENT_TYPE, {})])

    def patch(self, key: str, version: int, **values: object) -> Result:
        """Write a partial record."""
        data = json.dumps({"session_id": key} | values).encode()
        event = encode_event("translation.session", "upsert", version, data)
        return self.writer.write([RawMessage(Envelope("p", uuid4(), 0, [event]).body(), CONTENT_TYPE, {})])

    def rows(self) -> list[tuple[object, ...]]:
        query = "SELECT session_id, total_tasks, _version FROM translation.sessions ORDER BY 1"
        return self.reader.execute(query).fetchall()


@pytest.fixture
def desk(database_url: str) -> Iterator[Desk]:
    desk = Desk(database_url)
    yield desk
    desk.writer.database.close()
    desk.reader.close()


def is_merged(result: Result) -> bool:
    """Whether the upsert was needed."""
    return "upsert" in result.stage_ms


def test_new_rows_are_not_staged(desk):
    results = [desk.write("b", "a"), desk.write("c")]
    assert [(is_merged(result), result.outcomes) for result in results] == [(False, {"stored": 2}), (False, {"stored": 1})]
    assert desk.rows() == [("a", 0, 1), ("b", 0, 1), ("c", 0, 1)]


def test_a_row_that_is_there_is_merged_and_guesses_become_rare(desk):
    desk.write("a")
    assert is_merged(desk.write("a", "b", version=2, tasks=7))
    assert desk.rows() == [("a", 7, 2), ("b", 7, 2)]
    assert is_merged(desk.write("c")), "the batch after a wrong guess is merged without one"
    assert not is_merged(desk.write("d")), "the one after that is guessed again, rightly"


def test_an_older_event_is_superseded(desk):
    """In a block, too: its place in the envelope is what the ledger hears."""
    desk.write("b", version=5, tasks=5)
    assert desk.write("a", "b", "c", version=4).outcomes == {"stored": 2, "superseded": 1}
    assert desk.rows() == [("a", 0, 4), ("b", 5, 5), ("c", 0, 4)]
    ledger = "SELECT outcome, seqs::text FROM penstock.ledger WHERE outcome = 'superseded' OR lower(seqs) = 2 ORDER BY 2"
    assert desk.reader.execute(ledger).fetchall() == [("superseded", "[1,2)"), ("stored", "[2,3)")]


def test_a_batch_written_twice_says_the_same_twice(desk):
    event = encode_event("translation.session", "upsert", 3, b'{"session_id":"z","total_tasks":1,%b}' % _NULLS)
    message = RawMessage(Envelope("p", uuid4(), 0, [event]).body(), CONTENT_TYPE, {})
    assert [desk.writer.write([message]).outcomes for _ in range(2)] == [{"stored": 1}, {"stored": 1}]
    assert desk.rows() == [("z", 1, 3)]


def test_partial_records_are_superseded_only_where_nothing_of_them_stays(desk):
    desk.write("a", version=1)
    found = [
        desk.patch("a", 5, total_tasks=5, user_id="five"),
        desk.patch("a", 4, total_tasks=4, target_language="de"),
        desk.patch("a", 3, total_tasks=3),
        desk.patch("a", 6, total_tasks=6),
        desk.write("a", version=2, tasks=2),
    ]
    assert [list(result.outcomes) for result in found] == [["stored"], ["stored"], ["superseded"], ["stored"], ["stored"]]
    query = "SELECT total_tasks, user_id, target_language, _version FROM translation.sessions"
    assert desk.reader.execute(query).fetchall() == [(6, "five", "de", 6)]


def test_a_child_from_the_future_leaves_no_parent(desk):
    """It leaves its block, and what it would have needed with it."""
    parts = [b'{"task_id":"t-%b","session_id":"s-%b","status":null}' % (name, name) for name in (b"now", b"later")]
    versions = (1, 2**62)
    events = [encode_event("translation.task", "upsert", version, part) for version, part in zip(versions, parts, strict=True)]
    message = RawMessage(Envelope("p", uuid4(), 0, events).body(), CONTENT_TYPE, {})
    assert desk.writer.write([message]).outcomes == {"stored": 1, "held": 1}
    assert desk.rows() == [("s-now", None, None)]
