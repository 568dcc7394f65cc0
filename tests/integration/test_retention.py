"""What a purge deletes and what it leaves: ages, families, tombstones, months, holds, dead letters; and that it can be stopped."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from penstock_schemas import Declaration, Parent, Record
from penstock_schemas.registry import Registry
from penstock_worker.maintenance.job import Done, Job, run_job
from penstock_worker.maintenance.jobs import all_jobs
from penstock_worker.maintenance.retention import purge
from penstock_worker.retention_setting import parse_retention
from penstock_worker.settings import Settings
from penstock_worker.store.legal_holds import place_hold, release_hold
from penstock_worker.store.partitions import ensure_partitions, list_partitions
from penstock_worker.store.retention.rules import ERASED
from tests.lab import Lab
from tests.records import REGISTRY

#: Rows are stored now by the database's clock; what is to be old by it is looked at from here.
NOW = datetime.now(UTC).replace(microsecond=0) + timedelta(days=400)
DAY_US = 86_400_000_000
JOB = Job("retention", "", purge, every_s=1, deletes=True)


def version(days_ago: float) -> int:
    """A version that is so many days old at NOW."""
    return int(NOW.timestamp() * 1_000_000 - days_ago * DAY_US)


class House:
    """The lab's tables with rows of any age, and runs of the job at any time."""

    def __init__(self, url: str) -> None:
        self.lab = Lab(url, connections=1)
        self.url = url
        self.connection = psycopg.connect(url, autocommit=True, options="-c timezone=UTC", row_factory=dict_row)

    def close(self) -> None:
        self.lab.close()
        self.connection.close()

    def put(self, table: str, *rows: dict[str, Any]) -> None:
        """Insert rows; `age` is days at NOW, of the newest version and, where nothing else is said, of the lowest."""
        for row in rows:
            values = dict(row)
            age = values.pop("age", None)
            if age is not None:
                values["_version"] = version(age)
                values["_event"] = "00000000-0000-0000-0000-000000000001"
                if table in ("runs", "notes", "remarks"):
                    values.setdefault("_oldest", version(age))
            names = ", ".join(values)
            marks = ", ".join(["%s"] * len(values))
            self.connection.execute(f"INSERT INTO lab.{table} ({names}) VALUES ({marks})".encode(), list(values.values()))

    def keys(self, table: str) -> list[Any]:
        key = {"sites": "site_id", "runs": "run_id", "notes": "number", "pairs": "number", "marks": "mark_id"}[table]
        return [row["key"] for row in self.query(f"SELECT {key} AS key FROM lab.{table} ORDER BY 1")]

    def query(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        return self.connection.execute(statement.encode(), values or None).fetchall()

    def run(
        self, retention: str = "", *, now: datetime = NOW, is_dry_run: bool = False, all: bool = False, **settings: Any
    ) -> dict[str, Any]:
        done = self.done(retention, now=now, is_dry_run=is_dry_run, all=all, **settings)
        assert done.state == "done"
        return {name: value for name, value in done.counts.items() if name != "longest_lock_ms"}

    def done(
        self, retention: str = "", *, now: datetime = NOW, is_dry_run: bool = False, all: bool = False, **settings: Any
    ) -> Done:
        # Months are tested apart.
        policies = {"lab.reading": None} | parse_retention(retention)
        chosen = Settings(database_url=self.url, retention=retention, **{"retention_work_share": 1.0, **settings})
        return run_job(
            JOB,
            chosen,
            REGISTRY.with_retention(policies),
            started_by="test",
            is_dry_run=is_dry_run,
            arguments={"all": True} if all else None,
            now=lambda: now,
        )

    def hold(self, **what: Any) -> int:
        with psycopg.connect(self.url, autocommit=True, options="-c timezone=UTC") as connection:
            return place_hold(connection, REGISTRY, reason="lawsuit", placed_by="eve", **what).id  # type: ignore[arg-type]

    def release(self, number: int) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            release_hold(connection, number, "eve")  # type: ignore[arg-type]


@pytest.fixture
def house(empty_database_url: str) -> Iterator[House]:
    house = House(empty_database_url)
    yield house
    house.close()


def pair(number: int, age: float) -> dict[str, Any]:
    return {"tenant": "a", "number": number, "text": "hello", "age": age}


def test_rows_go_when_their_newest_version_is_older_than_the_policy(house: House):
    house.put("pairs", pair(1, 31), pair(2, 30.001), pair(3, 29.999), pair(4, 0))
    house.put("marks", {"mark_id": "for ever", "age": 399})

    assert house.run("lab.pair=30d") == {"deleted": {"lab.pair": 2}}
    assert house.keys("pairs") == [3, 4]
    assert house.keys("marks") == ["for ever"]
    assert house.run("lab.pair=30d") == {}


def test_a_dry_run_tells_and_deletes_nothing(house: House):
    house.put("pairs", pair(1, 31), pair(2, 32), pair(3, 1))
    house.hold(type="lab.pair", key=["a", "2"])

    told = house.run("lab.pair=30d", is_dry_run=True)
    assert told == {"would_go": {"lab.pair": {"due": 1, "on_hold": 1, "is_exact": True}}, "letters": {}}
    assert house.keys("pairs") == [1, 2, 3]


def test_a_parent_takes_its_children_with_it_and_theirs(house: House):
    house.put("sites", {"site_id": "old", "age": 40}, {"site_id": "young", "age": 1})
    house.put("runs", {"run_id": "r1", "site_id": "old", "age": 35}, {"run_id": "r2", "site_id": "young", "age": 300})
    house.put("notes", {"number": 1, "site_id": "old", "age": 31})
    house.put("remarks", {"remark_id": "00000000-0000-0000-0000-000000000001", "note": 1, "age": 33})

    counts = house.run("lab.site=30d,lab.note=never")
    assert counts == {"deleted": {"lab.site": 1, "lab.run": 1, "lab.note": 1, "lab.remark": 1}}
    assert house.keys("sites") == ["young"]
    assert house.keys("runs") == ["r2"]


@pytest.mark.parametrize("what", ["child", "grandchild", "held grandchild"])
def test_what_hangs_on_a_parent_keeps_it_as_long_as_it_is_young_or_on_hold(house: House, what: str):
    remark = "00000000-0000-0000-0000-000000000001"
    house.put("sites", {"site_id": "s", "age": 40})
    house.put("notes", {"number": 1, "site_id": "s", "age": 1 if what == "child" else 40})
    house.put("remarks", {"remark_id": remark, "note": 1, "age": 1 if what == "grandchild" else 40})
    if what == "held grandchild":
        house.hold(type="lab.remark", key=[remark])

    assert house.run("lab.site=30d") == {}
    assert house.keys("sites") == ["s"]
    assert house.run("lab.site=30d", now=NOW + timedelta(days=30)) == (
        {} if what == "held grandchild" else {"deleted": {"lab.site": 1, "lab.note": 1, "lab.remark": 1}}
    )


def test_a_child_with_a_policy_of_its_own_goes_before_its_parent(house: House):
    house.put("sites", {"site_id": "s", "age": 1})
    house.put("runs", {"run_id": "old", "site_id": "s", "age": 11}, {"run_id": "young", "site_id": "s", "age": 9})

    assert house.run("lab.run=10d") == {"deleted": {"lab.run": 1}}
    assert house.keys("runs") == ["young"]
    assert house.keys("sites") == ["s"]


def test_more_children_than_one_step_takes_go_with_their_parent(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("penstock_worker.store.retention.rows.MAX_CHILDREN", 150)
    house.put("sites", {"site_id": "s", "age": 40})
    house.connection.execute(
        "INSERT INTO lab.runs (run_id, site_id, _version, _oldest) SELECT n::text, 's', %s, %s FROM generate_series(1, 1000) n",
        [version(40), version(40)],
    )

    assert house.run("lab.site=30d") == {"deleted": {"lab.site": 1, "lab.run": 1000}}
    assert house.keys("runs") == []
