"""What a purge deletes and what it leaves: ages, families, tombstones, months, holds, dead letters; and that it goes on."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from penstock_schemas.registry import Registry, load_registry
from penstock_schemas.wire import CONTENT_TYPE, Envelope, encode_event, new_epoch
from penstock_worker.ingest.message import RawMessage
from penstock_worker.maintenance.job import Done, Job, Work, run_job
from penstock_worker.maintenance.retention import purge
from penstock_worker.retention_setting import parse_retention
from penstock_worker.settings import Settings
from penstock_worker.store.legal_holds import place_hold, release_hold
from penstock_worker.store.partitions import ensure_partitions, list_partitions
from penstock_worker.store.retention.rules import ERASED
from tests.lab import Lab
from tests.records import REGISTRY
from tests.replaying import Office, event

#: Rows are stored now by the database's clock; what is to be old by it is looked at from here.
NOW = datetime.now(UTC).replace(microsecond=0) + timedelta(days=400)
DAY_US = 86_400_000_000
#: Of a run, and no two runs have the same.
FIGURES = ("transactions", "over_100_ms", "longest_lock_ms", "tables")
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
        return {name: value for name, value in done.counts.items() if name not in FIGURES}

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
            arguments={"all" if all else "at_once": True},
            now=lambda: now,
        )

    def hold(self, **what: Any) -> int:
        with psycopg.connect(self.url, autocommit=True, options="-c timezone=UTC") as connection:
            return place_hold(connection, REGISTRY, reason="lawsuit", placed_by="eve", **what).id

    def release(self, number: int) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            release_hold(connection, number, "eve")


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
    assert told == {"would_go": {"lab.pair": {"due": 1, "on_hold": 1}}}
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


def test_of_a_family_that_is_kept_nobody_goes(house: House):
    house.put("sites", {"site_id": "s", "age": 40})
    house.put("runs", {"run_id": "old", "site_id": "s", "age": 40}, {"run_id": "young", "site_id": "s", "age": 1})

    assert house.run("lab.site=30d") == {}
    assert house.keys("runs") == ["old", "young"]


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


def test_tombstones_go_after_their_days_and_those_of_an_erasure_never(house: House):
    event, old, young = "00000000-0000-0000-0000-000000000001", version(31), version(29)
    house.put(
        "pairs",
        {"tenant": "a", "number": 1, "_deleted_version": old, "_deleted_event": event},
        {"tenant": "a", "number": 2, "_deleted_version": young, "_deleted_event": event},
        {"tenant": "a", "number": 3, "_deleted_version": old, "_deleted_event": ERASED},
        # Dated back by its producer: it has been here for a day.
        {"tenant": "a", "number": 4, "_deleted_version": old, "_deleted_event": event, "_stored_at": NOW - timedelta(days=1)},
    )

    assert house.run() == {"deleted": {"lab.pair": 1}}
    assert house.keys("pairs") == [2, 3, 4]
    assert house.run(tombstone_days=20) == {"deleted": {"lab.pair": 1}}
    assert house.keys("pairs") == [3, 4]
    assert house.run(now=NOW + timedelta(days=3000)) == {"deleted": {"lab.pair": 1}}
    assert house.keys("pairs") == [3]


def test_a_delete_that_its_producer_dated_back_is_remembered_from_when_it_came(house: House):
    deleted = {"_deleted_version": version(301), "_deleted_event": "00000000-0000-0000-0000-000000000002"}
    for number, days in enumerate((29, 31)):
        house.put("pairs", pair(number, 300) | deleted | {"_stored_at": NOW - timedelta(days=days)})
    assert house.run("lab.pair=30d") == {"deleted": {"lab.pair": 1}, "emptied": {"lab.pair": 1}}
    assert house.query("SELECT number, text FROM lab.pairs") == [{"number": 0, "text": None}]


def test_an_old_row_whose_delete_must_be_remembered_is_emptied(house: House):
    """It was deleted, came back, and got old: without the delete, what was deleted would come back with a late event."""
    event = "00000000-0000-0000-0000-000000000001"
    house.put(
        "pairs",
        pair(1, 8) | {"_deleted_version": version(9), "_deleted_event": event},
        pair(2, 40) | {"_deleted_version": version(50), "_deleted_event": ERASED},
        pair(3, 40) | {"_deleted_version": version(50), "_deleted_event": event},
    )

    assert house.run("lab.pair=7d") == {"deleted": {"lab.pair": 1}, "emptied": {"lab.pair": 2}}
    rows = house.query("SELECT number, text, _version, _deleted_version FROM lab.pairs ORDER BY 1")
    assert rows == [
        {"number": 1, "text": None, "_version": None, "_deleted_version": version(9)},
        {"number": 2, "text": None, "_version": None, "_deleted_version": version(50)},
    ]
    assert house.run("lab.pair=7d") == {}


def test_placeholders_go_when_they_are_old_and_childless(house: House):
    house.put(
        "sites", {"site_id": "childless"}, {"site_id": "new", "_stored_at": NOW - timedelta(days=29)}, {"site_id": "waited"}
    )
    house.put("runs", {"run_id": "r", "site_id": "waited", "age": 399})

    assert house.run() == {"deleted": {"lab.site": 1}}
    assert house.keys("sites") == ["new", "waited"]
    assert house.run("lab.run=30d") == {"deleted": {"lab.run": 1, "lab.site": 1}}
    assert house.keys("sites") == ["new"]


def test_a_parent_that_never_came_goes_by_the_policy_of_its_type(house: House):
    house.put("sites", {"site_id": "waited"})
    house.put("runs", {"run_id": "r", "site_id": "waited", "age": 100})

    assert house.run("lab.site=399d", now=NOW - timedelta(days=20)) == {}
    assert house.run("lab.site=60d") == {"deleted": {"lab.run": 1, "lab.site": 1}}


def test_children_that_fell_with_their_parent_are_emptied_and_go_with_its_tombstone(house: House):
    event = "00000000-0000-0000-0000-000000000002"
    house.put("sites", {"site_id": "s", "_deleted_version": version(5), "_deleted_event": event})
    # The second one is younger than the delete but began before it: it fell. The third one came after it.
    house.put("runs", {"run_id": "r1", "site_id": "s", "label": "secret", "details": "{}", "age": 6})
    house.put("runs", {"run_id": "r2", "site_id": "s", "age": 4, "_oldest": version(6)})
    house.put("runs", {"run_id": "r3", "site_id": "s", "age": 4})

    assert house.run() == {"emptied": {"lab.run": 2}}
    rows = house.query("SELECT run_id, label, details, _version, _oldest, _deleted_version FROM lab.runs ORDER BY 1")
    empty = {"label": None, "details": None, "_version": None, "_oldest": version(6), "_deleted_version": version(5)}
    assert rows[:2] == [{"run_id": "r1"} | empty, {"run_id": "r2"} | empty]
    assert rows[2]["_version"] == version(4)
    house.query("DELETE FROM lab.runs WHERE run_id = 'r3' RETURNING 1")
    # What is stored now is stored 400 days before NOW.
    assert house.run(now=NOW + timedelta(days=26)) == {"deleted": {"lab.run": 2, "lab.site": 1}}


def test_a_fallen_child_on_hold_is_left_as_it_is(house: House):
    event = "00000000-0000-0000-0000-000000000002"
    house.put("sites", {"site_id": "s", "_deleted_version": version(50), "_deleted_event": event})
    house.put("runs", {"run_id": "r", "site_id": "s", "label": "evidence", "age": 60})
    number = house.hold(type="lab.run", key=["r"])

    assert house.run() == {}
    assert house.query("SELECT label FROM lab.runs") == [{"label": "evidence"}]
    house.release(number)
    assert house.run() == {"emptied": {"lab.run": 1}}


def test_a_parent_of_an_erased_child_loses_its_content_and_stays(house: House):
    house.put("sites", {"site_id": "s", "name": "secret", "age": 60})
    house.put("notes", {"number": 1, "site_id": "s", "age": 60}, {"number": 2, "site_id": "s", "age": 60})
    house.put(
        "remarks",
        {
            "remark_id": "00000000-0000-0000-0000-000000000001",
            "note": 1,
            "_deleted_version": version(60),
            "_deleted_event": ERASED,
        },
    )

    assert house.run("lab.site=30d") == {"deleted": {"lab.note": 1}, "emptied": {"lab.note": 1, "lab.site": 1}}
    assert house.query("SELECT name, _version FROM lab.sites") == [{"name": None, "_version": None}]
    assert house.query("SELECT number, _version FROM lab.notes") == [{"number": 1, "_version": None}]
    assert house.run("lab.site=30d") == {}


def test_what_is_on_hold_stays_whoever_says_so(house: House):
    house.put("pairs", pair(1, 40), pair(2, 40))
    house.put("sites", {"site_id": "s", "age": 40}, {"site_id": "t", "age": 40})
    house.put("runs", {"run_id": "r", "site_id": "s", "age": 40})
    row = house.hold(type="lab.pair", key=["a", "1"])
    site = house.hold(type="lab.site", key=["s"])

    policies = "lab.pair=30d,lab.site=30d,lab.run=30d"
    assert house.run(policies) == {"deleted": {"lab.pair": 1, "lab.site": 1}}
    whole = house.hold(type="lab.site")
    house.release(row)
    house.release(site)
    assert house.run(policies) == {"deleted": {"lab.pair": 1}}
    house.release(whole)
    assert house.run(policies) == {"deleted": {"lab.run": 1, "lab.site": 1}}


def test_rows_that_others_work_with_are_left_to_the_next_run(house: House):
    house.put("pairs", pair(1, 40), pair(2, 40))
    with psycopg.connect(house.url) as ingestion:
        ingestion.execute("SELECT FROM lab.pairs WHERE number = 1 FOR NO KEY UPDATE")
        assert house.run("lab.pair=30d") == {"deleted": {"lab.pair": 1}}
    assert house.run("lab.pair=30d") == {"deleted": {"lab.pair": 1}}


def test_a_table_that_is_locked_stops_no_other_one(house: House):
    house.put("pairs", pair(1, 40))
    house.put("marks", {"mark_id": "m", "age": 40})
    with psycopg.connect(house.url) as migration:
        migration.execute("LOCK TABLE lab.pairs")
        counts = house.run("lab.pair=30d,lab.mark=30d")
    assert counts == {"deleted": {"lab.mark": 1}, "left": {"lab.pair": "its table is in use"}}
    assert house.run("lab.pair=30d") == {"deleted": {"lab.pair": 1}}


def test_a_type_whose_childrens_table_is_still_to_be_made_stops_no_other_one(house: House):
    house.connection.execute("DROP TABLE lab.remarks")
    house.put("pairs", pair(1, 31))
    house.put("sites", {"site_id": "s", "age": 1})
    house.put("notes", {"number": 1, "site_id": "s", "age": 1})
    counts = house.run("lab.pair=30d, lab.note=30d")
    assert (counts["deleted"], list(counts["left"])) == ({"lab.pair": 1}, ["lab.note"])
    assert counts["left"]["lab.note"].endswith('relation "lab.remarks" does not exist): run `penstock migrate up`')


def test_a_table_that_is_none_of_ours_keeps_its_rows_and_stops_no_other_one(house: House):
    house.put("marks", {"mark_id": "m", "age": 40})
    house.put("pairs", pair(1, 40))
    house.connection.execute("CREATE TABLE public.strange (mark text REFERENCES lab.marks); INSERT INTO strange VALUES ('m')")

    counts = house.run("lab.pair=30d,lab.mark=30d")
    assert counts["deleted"] == {"lab.pair": 1}
    assert "another table refers to it" in counts["left"]["lab.mark"]


def test_a_run_with_too_little_time_goes_on_where_the_last_one_stopped(house: House):
    """Steps begin with 100 rows, and every run makes one."""
    insert = "INSERT INTO lab.pairs (tenant, number, text, _version) SELECT 'a', n, repeat('x', 700), %s"
    house.connection.execute(f"{insert} FROM generate_series(1, 1500) n".encode(), [version(40)])
    house.connection.execute(f"{insert} FROM generate_series(1501, 1600) n".encode(), [version(1)])
    house.put("marks", {"mark_id": "m", "age": 40})

    runs = []
    for _ in range(40):
        runs.append(house.run("lab.pair=30d,lab.mark=30d", retention_time_limit_s=1e-9))
        if not runs[-1].get("next"):
            break
    pages = [run["next"]["page"] for run in runs if run.get("next", {}).get("type") == "lab.pair"]
    assert pages == sorted(pages)
    assert len(set(pages)) > 2
    deleted = [run.get("deleted", {}).get("lab.pair", 0) for run in runs]
    assert sum(deleted) == 1500
    assert max(deleted) == 100
    assert len(house.keys("pairs")) == 100
    assert house.keys("marks") == []


def test_of_a_large_table_a_plan_reads_a_sample_and_says_so(house: House, monkeypatch: pytest.MonkeyPatch):
    insert = "INSERT INTO lab.pairs (tenant, number, text, _version) SELECT 'a', n, repeat('x', 700), %s"
    house.connection.execute(f"{insert} FROM generate_series(1, 1500) n".encode(), [version(40)])
    monkeypatch.setattr("penstock_worker.store.retention.figures.PAGES_READ", 75)

    told = house.run("lab.pair=30d", is_dry_run=True)["would_go"]["lab.pair"]
    assert told["estimated"]
    assert 300 < told["due"] < 7500  # half of the pages are read, each with the same chance


def test_all_of_it_takes_no_more_than_one_run(house: House):
    insert = "INSERT INTO lab.pairs (tenant, number, text, _version) SELECT 'a', n, repeat('x', 700), %s"
    house.connection.execute(f"{insert} FROM generate_series(1, 1500) n".encode(), [version(40)])

    assert house.run("lab.pair=30d", all=True, retention_time_limit_s=1e-9) == {"deleted": {"lab.pair": 1500}}


def test_tables_rest_between_two_passes_unless_a_person_asks(house: House):
    """Months and letters do not: to look for them is cheap."""
    settings = Settings(database_url=house.url, retention="lab.mark=30d", retention_work_share=1.0, retention_rest_s=3600)
    registry = REGISTRY.with_retention({"lab.mark": timedelta(days=30), "lab.reading": None})

    def run(now: datetime, **arguments: bool) -> int:
        house.put("marks", {"mark_id": f"{now} {arguments}", "age": 100})
        done = run_job(JOB, settings, registry, started_by="test", arguments=arguments, now=lambda: now)
        return int(done.counts.get("deleted", {}).get("lab.mark", 0))

    later = NOW + timedelta(days=1)
    assert run(later) == 1
    house.query("UPDATE penstock.maintenance_runs SET ended_at = %s RETURNING 1", later)
    assert run(later + timedelta(minutes=59)) == 0
    assert run(later + timedelta(minutes=59), at_once=True) == 2
    house.query("UPDATE penstock.maintenance_runs SET ended_at = %s RETURNING 1", later)
    assert run(later + timedelta(minutes=61)) == 1


def months(house: House) -> list[str]:
    with psycopg.connect(house.url, autocommit=True, options="-c timezone=UTC") as connection:
        return [month.name for month in list_partitions(connection, REGISTRY["lab.reading"])]


def put_reading(house: House, at: datetime, number: int) -> None:
    house.query(
        "INSERT INTO lab.readings (id, at, _version) VALUES (%s, %s, 1) RETURNING 1",
        f"00000000-0000-0000-0000-{number:012d}",
        at,
    )


def make_months(house: House, now: datetime) -> None:
    for name in months(house):
        house.connection.execute(f"DROP TABLE lab.{name}".encode())
    with psycopg.connect(house.url, autocommit=True) as connection:
        ensure_partitions(connection, REGISTRY["lab.reading"], now)


def test_a_month_is_dropped_when_its_last_instant_is_out_of_the_window(house: House):
    first = datetime(2031, 5, 10, tzinfo=UTC)
    make_months(house, first)
    assert months(house)[0] == "readings_y2031m02"
    put_reading(house, datetime(2031, 2, 28, 23, 59, 59, 999999, tzinfo=UTC), 1)
    # 90 days after the end of February
    end = datetime(2031, 3, 1, tzinfo=UTC) + timedelta(days=90)

    assert house.run("lab.reading=90d", now=end - timedelta(microseconds=1)) == {}
    assert house.run("lab.reading=90d", now=end) == {"dropped": ["lab.readings_y2031m02"]}
    assert months(house)[0] == "readings_y2031m03"
    assert house.query("SELECT count(*) FROM lab.readings") == [{"count": 0}]


def test_a_longer_policy_makes_older_months_and_a_shorter_one_drops_them(house: House):
    now = datetime(2031, 5, 10, tzinfo=UTC)
    make_months(house, now)
    longer = REGISTRY.with_retention({"lab.reading": timedelta(days=150)})["lab.reading"]
    with psycopg.connect(house.url, autocommit=True) as connection:
        assert ensure_partitions(connection, longer, now) == [
            "readings_y2030m12",
            "readings_y2031m01",
        ]
    dropped = house.run("lab.reading=30d", now=now)["dropped"]
    assert dropped == [f"lab.readings_y{month}" for month in ("2030m12", "2031m01", "2031m02", "2031m03")]


def test_what_is_kept_for_ever_takes_years_past_and_loses_them_when_it_is_no_longer(house: House):
    now = datetime(2031, 5, 10, tzinfo=UTC)
    for name in months(house):
        house.connection.execute(f"DROP TABLE lab.{name}".encode())
    for_ever = REGISTRY.with_retention({"lab.reading": None})["lab.reading"]
    with psycopg.connect(house.url, autocommit=True) as connection:
        made = ensure_partitions(connection, for_ever, now)
        assert (made[0], made[-1]) == ("readings_y2030m05", "readings_past")
        assert ensure_partitions(connection, for_ever, now) == []
        put_reading(house, datetime(1999, 1, 1, tzinfo=UTC), 1)
        put_reading(house, datetime(2030, 4, 30, 23, tzinfo=UTC), 2)
        shorter = REGISTRY.with_retention({"lab.reading": timedelta(days=400)})["lab.reading"]
        assert ensure_partitions(connection, shorter, now) == []  # the past has the months before
    assert house.run("lab.reading=400d", now=now) == {"deleted": {"lab.reading": 1}}
    assert house.query("SELECT extract(year FROM at)::int AS year FROM lab.readings") == [{"year": 2030}]
    later = house.run("lab.reading=400d", now=datetime(2031, 8, 1, tzinfo=UTC))
    assert later["dropped"][0] == "lab.readings_past"


def test_a_month_with_a_row_on_hold_loses_its_other_rows_and_goes_when_it_is_released(house: House):
    now = datetime(2031, 5, 10, tzinfo=UTC)
    make_months(house, now)
    held = datetime(2031, 2, 3, tzinfo=UTC)
    for number in range(1, 4):
        put_reading(house, held, number)
    number = house.hold(type="lab.reading", key=["00000000-0000-0000-0000-000000000002", held.isoformat()])
    later = now + timedelta(days=60)

    told = house.run("lab.reading=90d", now=later, is_dry_run=True)
    assert told["would_go"]["lab.reading"]["months"] == ["readings_y2031m03"]
    counts = house.run("lab.reading=90d", now=later)
    assert counts == {"dropped": ["lab.readings_y2031m03"], "deleted": {"lab.reading": 2}}
    assert [str(row["id"])[-1] for row in house.query("SELECT id FROM lab.readings")] == ["2"]
    house.release(number)
    assert house.run("lab.reading=90d", now=later) == {"dropped": ["lab.readings_y2031m02"]}


def test_a_hold_that_is_placed_while_a_month_is_read_keeps_it(house: House):
    now = datetime(2031, 5, 10, tzinfo=UTC)
    make_months(house, now)
    held, later = datetime(2031, 2, 3, tzinfo=UTC), now + timedelta(days=30)
    for number in (1, 2):
        put_reading(house, held, number)

    class Meanwhile(psycopg.Connection[tuple[object, ...]]):
        """The purge's: it has found no row on hold, and is about to drop the month."""

        is_over = False

        def execute(self, query: Any, *values: Any, **options: Any) -> Any:
            if query == "LOCK TABLE penstock.legal_holds IN SHARE MODE" and not self.is_over:
                self.is_over = True
                house.hold(type="lab.reading", key=["00000000-0000-0000-0000-000000000002", held.isoformat()])
            return super().execute(query, *values, **options)

    with Meanwhile.connect(house.url, autocommit=True, options="-c timezone=UTC") as connection:
        work = Work(Settings(database_url=house.url, retention_work_share=1.0), REGISTRY, connection, later)
        assert purge(work) | dict.fromkeys(FIGURES) == {"deleted": {"lab.reading": 1}} | dict.fromkeys(FIGURES)
    assert [str(row["id"])[-1] for row in house.query("SELECT id FROM lab.readings")] == ["2"]


def test_months_are_searched_for_rows_on_hold_once_a_pass(house: House):
    now = datetime(2031, 5, 10, tzinfo=UTC)
    make_months(house, now)
    held, later = datetime(2031, 2, 3, tzinfo=UTC), now + timedelta(days=60)
    house.hold(type="lab.reading", key=["00000000-0000-0000-0000-000000000002", held.isoformat()])
    settings = Settings(database_url=house.url, retention_work_share=1.0, retention_rest_s=3600)
    registry = REGISTRY.with_retention({"lab.reading": timedelta(days=90)})

    def run(minutes: int) -> int:
        put_reading(house, held, 100 + minutes)
        at = later + timedelta(minutes=minutes)
        done = run_job(JOB, settings, registry, started_by="test", now=lambda: at)
        house.query("UPDATE penstock.maintenance_runs SET ended_at = %s WHERE ended_at < %s RETURNING 1", at, now)
        return int(done.counts.get("deleted", {}).get("lab.reading", 0))

    put_reading(house, held, 2)
    assert [run(minutes) for minutes in (0, 59, 61)] == [1, 0, 2]


def test_a_month_is_left_where_its_table_is_in_use(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("penstock_worker.store.retention.months.PAUSE_S", 0.0)
    monkeypatch.setattr("penstock_worker.store.retention.months.TRIES", 2)
    now = datetime(2031, 5, 10, tzinfo=UTC)
    make_months(house, now)
    with psycopg.connect(house.url) as report:
        report.execute("SELECT count(*) FROM lab.readings")
        counts = house.run("lab.reading=60d", now=now)
        assert counts == {"left": {"lab.reading": "its table is in use"}}
    assert house.run("lab.reading=60d", now=now) == {"dropped": ["lab.readings_y2031m02"]}


def test_what_is_put_on_hold_or_written_between_the_look_and_the_deletion_stays(house: House):
    house.put("pairs", pair(1, 40), pair(2, 40), pair(3, 40))

    class Meanwhile(psycopg.Connection[tuple[object, ...]]):
        """The purge's: it has found the rows, and is about to lock them."""

        is_over = False

        def execute(self, query: Any, *values: Any, **options: Any) -> Any:
            if query == "LOCK TABLE penstock.legal_holds IN SHARE MODE" and not self.is_over:
                self.is_over = True
                house.hold(type="lab.pair", key=["a", "1"])
                house.query("UPDATE lab.pairs SET _version = %s WHERE number = 2 RETURNING 1", version(1))
            return super().execute(query, *values, **options)

    with Meanwhile.connect(house.url, autocommit=True, options="-c timezone=UTC") as connection:
        registry = REGISTRY.with_retention({"lab.pair": timedelta(days=30), "lab.reading": None})
        work = Work(Settings(database_url=house.url, retention_work_share=1.0), registry, connection, NOW)
        assert purge(work)["deleted"] == {"lab.pair": 1}
    assert house.keys("pairs") == [1, 2]


def test_of_a_family_whose_eldest_is_written_to_meanwhile_nobody_goes(house: House):
    house.put("sites", {"site_id": "s", "age": 40})
    house.put("notes", {"number": 1, "site_id": "s", "age": 40})
    house.put("remarks", {"remark_id": "00000000-0000-0000-0000-000000000001", "note": 1, "age": 40})

    class Meanwhile(psycopg.Connection[tuple[object, ...]]):
        """The purge's: it has found the family, and is about to lock the youngest."""

        def execute(self, query: Any, *values: Any, **options: Any) -> Any:
            if query == "LOCK TABLE penstock.legal_holds IN SHARE MODE":
                house.query("UPDATE lab.sites SET _version = %s RETURNING 1", version(1))
            return super().execute(query, *values, **options)

    with Meanwhile.connect(house.url, autocommit=True, options="-c timezone=UTC") as connection:
        registry = REGISTRY.with_retention({"lab.site": timedelta(days=30), "lab.reading": None})
        work = Work(Settings(database_url=house.url, retention_work_share=1.0), registry, connection, NOW)
        assert "deleted" not in purge(work)
    assert [house.query(f"SELECT count(*) AS n FROM lab.{table}")[0]["n"] for table in ("sites", "notes", "remarks")] == [1] * 3


def test_a_child_that_arrives_while_its_placeholder_is_purged_is_stored(house: House):
    """It sees its parent, waits for the purge to be over, and is refused by the foreign key; then it is tried again."""
    house.put("sites", {"site_id": "s"})
    writer = house.lab.writers[0]
    event = {"run_id": "r", "site_id": "s", "label": "late"}
    results: list[dict[str, int]] = []
    thread = threading.Thread(target=lambda: results.append(writer.write([message("lab.run", event)]).outcomes))

    class Meanwhile(psycopg.Connection[tuple[object, ...]]):
        """The purge's: before it deletes, with the row locked, the child comes and waits."""

        def execute(self, query: Any, *values: Any, **options: Any) -> Any:
            if isinstance(query, sql.Composed) and query.as_string().startswith('DELETE FROM "lab"."sites"') and not results:
                thread.start()
                wait_until_blocked(house, thread)
            return super().execute(query, *values, **options)

    with Meanwhile.connect(house.url, autocommit=True, options="-c timezone=UTC") as connection:
        work = Work(Settings(database_url=house.url, retention_work_share=1.0), REGISTRY, connection, NOW)
        assert purge(work)["deleted"]["lab.site"] == 1
    thread.join(60)
    assert results == [{"stored": 1}]
    assert house.keys("runs") == ["r"]
    assert house.query("SELECT site_id, _version FROM lab.sites") == [{"site_id": "s", "_version": None}]
    assert house.query("SELECT count(*) FROM penstock.dead_letters") == [{"count": 0}]


def message(type: str, data: dict[str, Any]) -> RawMessage:
    payload = encode_event(type, "upsert", 1_700_000_000_000_000, json.dumps(data).encode())
    envelope = Envelope("test", new_epoch(), 0, [payload])
    return RawMessage(envelope.body(), CONTENT_TYPE, envelope.headers())


def wait_until_blocked(house: House, thread: threading.Thread) -> None:
    """Until somebody waits for a row's lock."""
    while not house.query("SELECT FROM pg_locks WHERE NOT granted"):
        assert thread.is_alive()


def test_dead_letters_that_cannot_be_read_go_after_their_days_and_stay_accounted_for(database_url: str):
    office = Office(database_url)
    try:
        office.writer.write([RawMessage(b"{", CONTENT_TYPE, {"epoch": str(office.epoch), "seq": 0, "count": 2})])
        office._seq = 2
        office.write(event("guardian.metric", {"timestamp": "soon"}), event("no.such", {}))
        assert office.outcomes() == {"dead": 3, "held": 1}
        (row,) = office.query("SELECT max(at) FROM penstock.dead_letters")
        limit = row[0] + timedelta(days=30)

        def run(now: datetime, **settings: Any) -> dict[str, Any]:
            chosen = Settings(database_url=database_url, retention_work_share=1.0, **settings)
            done = run_job(JOB, chosen, Registry([]), started_by="test", now=lambda: now)
            return {name: value for name, value in done.counts.items() if name not in FIGURES}

        assert run(limit - timedelta(days=1)) == {}
        assert run(limit + timedelta(seconds=1)) == {"letters": 1}
        assert office.letters() == [("dead", "invalid"), ("held", "unknown_type")]
        assert office.query("SELECT reason FROM penstock.ledger WHERE reason IS NOT NULL") == [("discarded after 30 days",)]
        assert office.outcomes() == {"dead": 3, "held": 1}

        hold = place_hold(office.connection, load_registry(), type="guardian.metric", reason="lawsuit", placed_by="eve")
        assert run(limit + timedelta(days=400)) == {}
        assert run(limit + timedelta(days=400), dead_letter_days=365) == {"letters": 1}
        assert office.letters() == [("dead", "invalid")]
        release_hold(office.connection, hold.id, "eve")
        assert run(limit + timedelta(days=400), dead_letter_days=365) == {"letters": 1}
        assert office.outcomes() == {"dead": 4}
    finally:
        office.close()
