"""
What a batch costs in counts, which a slow machine does not change: round trips, commits, bytes copied and objects made.

Read from libpq's trace of the connection, so that nothing that goes over it is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from psycopg.pq import Trace

from penstock_schemas.records.translation import TranslationTask
from penstock_schemas.registry import load_registry
from penstock_schemas.wire import CONTENT_TYPE, Envelope, encode_event
from penstock_worker.ingest.message import Event, RawMessage
from penstock_worker.ingest.write import Writer
from penstock_worker.settings import Settings

EVENTS_PER_MESSAGE = 500
VERSIONS = count(1_700_000_000_000_000)


def message(places: Iterable[int], **change: object) -> RawMessage:
    """Full records of tasks, 200 of a session, from a new producer and newer than all before."""
    places = list(places)
    tasks = [TranslationTask(**dict.fromkeys(FIELDS) | task(place) | change) for place in places]
    events = [encode_event("translation.task", "upsert", next(VERSIONS), task.to_json()) for task in tasks]
    return RawMessage(Envelope("costs", uuid4(), 0, events).body(), CONTENT_TYPE, {})


FIELDS = TranslationTask.model_fields


def task(place: int) -> dict[str, Any]:
    session = f"session-{place // 200}"
    texts = {"source_text": "water level, gate 3", "translated_text": "Wasserstand, Tor 3", "status": "running"}
    return {"task_id": f"{session}:{place % 200:03}", "session_id": session, "sequence": place, "metadata": {"page": 1}} | texts


FIRST = message(range(EVENTS_PER_MESSAGE))
SECOND = message(range(EVENTS_PER_MESSAGE, 2 * EVENTS_PER_MESSAGE))


@dataclass(frozen=True)
class Costs:
    """Of one batch."""

    round_trips: int
    commits: int
    copied_bytes: int
    objects: int


class Scale:
    """A writer that is weighed; its staging tables are there, as they are after a process's first batch."""

    def __init__(self, url: str, folder: Path) -> None:
        self.writer = Writer.of(Settings(database_url=url), load_registry())
        self._trace = folder / "trace"
        self._objects = 0

    def write(self, *messages: RawMessage) -> Costs:
        connection = self.writer.database.connection().pgconn
        before = self._objects
        with self._trace.open("w") as trace:
            connection.trace(trace.fileno())
            connection.set_trace_flags(Trace.SUPPRESS_TIMESTAMPS | Trace.REGRESS_MODE)
            self.writer.write(messages)
            connection.untrace()
        lines = [line.split("\t") for line in self._trace.read_text(errors="replace").split("\n")]
        said = [line for line in lines if len(line) > 2]
        return Costs(
            sum(line[2].startswith("ReadyForQuery") for line in said),
            sum(line[2].startswith("CommandComplete") and '"COMMIT"' in "".join(line) for line in said),
            sum(int(line[1]) for line in said if line[0] == "F" and line[2].startswith("CopyData")),
            self._objects - before,
        )

    def count_object(self) -> None:
        self._objects += 1


@pytest.fixture
def scale(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scale]:
    scale = Scale(database_url, tmp_path)
    made = Event.__post_init__

    def make(event: Event) -> None:
        scale.count_object()
        made(event)

    monkeypatch.setattr(Event, "__post_init__", make)
    scale.write(message([10_000]))
    yield scale
    scale.writer.database.close()


def test_new_rows_cost_one_copy_and_no_objects(scale):
    costs = scale.write(FIRST, SECOND)
    assert (costs.commits, costs.objects) == (1, 0)
    assert costs.round_trips <= 12, "eight, three more for placeholders of parents, one for new producers"
    assert costs.copied_bytes < len(FIRST.body) + len(SECOND.body), "COPY carries less than the messages do"


def test_updates_cost_one_statement_more(scale):
    """From the second batch on: the first one finds out that its rows are there."""
    scale.write(FIRST, SECOND)
    scale.write(message([0], tokens=1))
    costs = scale.write(message(range(EVENTS_PER_MESSAGE), tokens=2))
    assert (costs.commits, costs.objects) == (1, 0)
    assert costs.round_trips <= 8
    assert costs.copied_bytes < len(FIRST.body)


def test_many_events_need_no_more_round_trips_than_one(scale):
    assert scale.write(message([0])).round_trips == scale.write(message(range(1, EVENTS_PER_MESSAGE)), SECOND).round_trips


def test_a_repeated_key_makes_objects_of_its_messages_only(scale):
    costs = scale.write(FIRST, SECOND, message([EVENTS_PER_MESSAGE]))
    assert (costs.commits, costs.objects) == (1, EVENTS_PER_MESSAGE + 1)
