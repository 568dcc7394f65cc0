"""Events of somebody's own record types, written as columns: what is told of them, and what is in their tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from pydantic import BaseModel

from penstock_schemas import Declaration, Record, Registry
from penstock_schemas.wire import CONTENT_TYPE, Envelope, encode_event, new_epoch
from penstock_worker.ingest.message import RawMessage
from penstock_worker.ingest.tasks import Child
from penstock_worker.ingest.write import Result, Writer
from penstock_worker.settings import Settings
from penstock_worker.store.partitions import ensure_partitions
from penstock_worker.store.tables import metadata_for
from tests.series import Sample

#: Of this month, for which there is a partition.
BEGIN = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
VERSION = 1_700_000_000_000_000


class Stop(BaseModel):
    """Where a route leads through."""

    name: str


class Route(Record):
    """Its columns are a tuple and a model, so that a text may be where nobody expects it."""

    __record__ = Declaration(type="lab.route", table="lab.routes", key="name")

    name: str
    words: tuple[str, ...] | None = None
    stop: Stop | None = None


REGISTRY = Registry([Sample, Route])


class Desk:
    """A writer of these types, and a look at their tables."""

    def __init__(self, url: str) -> None:
        self.settings = Settings(database_url=url)
        self.writer = Writer.of(self.settings, REGISTRY)
        self.reader = psycopg.connect(url, autocommit=True)
        self.reader.execute("CREATE SCHEMA lab")
        engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), poolclass=sa.NullPool)
        metadata_for(REGISTRY).create_all(engine)
        ensure_partitions(self.reader, REGISTRY["lab.sample"])

    def write(self, *messages: RawMessage) -> Result:
        return self.writer.write(messages)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        return self.reader.execute(statement.encode()).fetchall()

    def close(self) -> None:
        self.writer.database.close()
        self.reader.close()


@pytest.fixture
def desk(database_url: str) -> Iterator[Desk]:
    desk = Desk(database_url)
    yield desk
    desk.close()


def samples(times: Sequence[datetime], version: int = VERSION, value: float = 1.5) -> RawMessage:
    """Of one sensor."""
    return message("lab.sample", [{"sensor": "s", "at": at.isoformat(), "value": value} for at in times], version)


def message(kind: str, records: Sequence[dict[str, Any]], version: int = VERSION) -> RawMessage:
    events = [encode_event(kind, "upsert", version, json.dumps(record).encode()) for record in records]
    return RawMessage(Envelope("desk", new_epoch(), 0, events).body(), CONTENT_TYPE, {})


def seconds(count: int, first: int = 0) -> list[datetime]:
    return [BEGIN + timedelta(seconds=first + number) for number in range(count)]


def test_many_instants_of_one_sensor_stay_in_blocks(desk: Desk) -> None:
    result = desk.write(samples(seconds(50)), samples(seconds(50, first=50)))
    assert (result.outcomes, result.in_blocks) == ({"stored": 100}, 100)
    assert desk.query("SELECT sensor, count(*), count(DISTINCT at) FROM lab.samples GROUP BY 1") == [("s", 100, 100)]


def test_what_is_told_of_an_instant_is_told_of_it_alone(desk: Desk) -> None:
    """Other instants of the sensor, which are newer or older, say nothing about it."""
    first, again = samples(seconds(3), value=1.0), samples(seconds(2), version=VERSION - 1, value=2.0)
    others = samples(seconds(2, first=3), version=VERSION - 1, value=3.0)
    told = [desk.write(*batch) for batch in ([first], [first, others], [again])]
    assert [result.outcomes for result in told] == [{"stored": 3}, {"stored": 5}, {"superseded": 2}]
    assert [result.in_blocks for result in told] == [3, 5, 2]
    assert desk.query("SELECT value FROM lab.samples ORDER BY at") == [(1.0,), (1.0,), (1.0,), (3.0,), (3.0,)]


def test_an_instant_that_is_written_otherwise_is_the_same(desk: Desk) -> None:
    (at,) = seconds(1)
    elsewhere = at.astimezone(timezone(timedelta(hours=2)))
    assert desk.write(samples([at], value=1.0)).outcomes == {"stored": 1}
    assert desk.write(samples([elsewhere], version=VERSION - 1, value=2.0)).outcomes == {"superseded": 1}
    assert desk.write(samples([at]), samples([elsewhere], version=VERSION + 1)).in_blocks == 0, "they are folded"
    assert desk.query("SELECT value, _version FROM lab.samples") == [(1.5, VERSION + 1)]


def test_a_result_says_how_many_events_went_as_columns(desk: Desk) -> None:
    """Of a message with anything odd in it none does, whatever else is in its batch."""
    usual, odd = samples(seconds(3)), message("lab.route", [{"name": "a"}, {"name": "b", "more": 1}])
    child = Child(desk.settings, REGISTRY)
    try:
        told = child.write([usual, odd], "together")
    finally:
        child.writer.database.close()
    assert {name: told[name] for name in told if name not in ("ms", "measures")} == {"stored": 5, "in_blocks": 3}


@pytest.mark.parametrize("bad", [{"words": ["x", "\0", "y"]}, {"stop": {"name": "\0"}}], ids=["tuple", "model"])
@pytest.mark.parametrize("is_apart", [False, True], ids=["one message", "three messages"])
def test_a_nul_harms_no_neighbour(desk: Desk, bad: dict[str, Any], *, is_apart: bool) -> None:
    """Their values stay their own, whether they are read beside it or as columns."""
    good = [{"name": name, "words": [name, "x"], "stop": {"name": name}} for name in ("a", "b", "d")]
    records = [good[0], good[1], {"name": "c", "words": ["c"], "stop": {"name": "c"}} | bad, good[2]]
    batch = [message("lab.route", [record]) for record in records] if is_apart else [message("lab.route", records)]
    assert desk.write(*batch).outcomes == {"stored": 3, "dead": 1}
    assert desk.query("SELECT state, reason FROM penstock.dead_letters") == [("dead", "nul_character")]
    assert desk.query("SELECT name, words, stop FROM lab.routes ORDER BY 1") == [tuple(record.values()) for record in good]
