"""`penstock disk` and its job: sizes, growth over injected days, readings that are thinned, and the alarm."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from penstock_schemas.registry import load_registry
from penstock_worker.cli.disk import TABLES_SHOWN
from penstock_worker.maintenance.disk import DiskUse, look_at_disk
from penstock_worker.maintenance.job import Done, run_job
from penstock_worker.maintenance.jobs import all_jobs
from penstock_worker.settings import Settings
from penstock_worker.store.disk import DATABASE, Growth
from tests.commands import penstock_here

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
JOBS = "scheduler.jobs"


class Site:
    """A database, looked at whenever a test says."""

    def __init__(self, url: str) -> None:
        self.url, self.registry = url, load_registry()

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True, options="-c timezone=UTC") as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def look(self, at: datetime = NOW, **settings: Any) -> DiskUse:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return look_at_disk(connection, self.registry, Settings(**settings), at)

    def run(self, at: datetime = NOW, **settings: Any) -> Done:
        chosen = Settings(database_url=self.url, **settings)
        return run_job(all_jobs(chosen)["disk"], chosen, self.registry, started_by="test", now=lambda: at)

    def remember(self, name: str, size: int, at: datetime) -> None:
        self.query("INSERT INTO penstock.table_sizes VALUES (%s, %s, %s, 0)", name, at, size)

    def size(self, name: str) -> int:
        if name == DATABASE:
            return self.query("SELECT pg_database_size(current_database())")[0][0]
        return self.query("SELECT pg_total_relation_size(%s)", name)[0][0]


@pytest.fixture
def site(database_url: str) -> Site:
    return Site(database_url)


def test_a_size_is_all_of_a_table(site):
    site.query(
        "INSERT INTO scheduler.pipelines (name, description, _version)"
        " SELECT 'p' || n, (SELECT string_agg(md5((n * 1000 + m)::text), '') FROM generate_series(1, 200) AS m), 1"
        " FROM generate_series(1, 50) AS n"
    )
    site.query("ANALYZE scheduler.pipelines")

    (found,) = [table for table in site.look().tables if table.name == "scheduler.pipelines"]

    sizes = site.query(
        "SELECT pg_total_relation_size(oid), pg_indexes_size(oid), pg_total_relation_size(reltoastrelid)"
        " FROM pg_class WHERE oid = 'scheduler.pipelines'::regclass"
    )
    assert [(found.bytes, found.index_bytes, found.toast_bytes)] == sizes
    assert found.toast_bytes > 200_000
    assert (found.rows, found.partitions) == (50, 0)


def test_partitions_are_summed_up(site):
    site.query(
        "INSERT INTO guardian.metrics (id, timestamp, _version)"
        " SELECT gen_random_uuid(), now() - n * interval '1 hour', 1 FROM generate_series(1, 1500) AS n"
    )
    site.query("ANALYZE guardian.metrics")

    (found,) = [table for table in site.look().tables if table.name == "guardian.metrics"]

    partitions = site.query(
        "SELECT count(*), sum(pg_total_relation_size(inhrelid))::bigint FROM pg_inherits"
        " WHERE inhparent = 'guardian.metrics'::regclass"
    )
    assert [(found.partitions, found.bytes)] == partitions
    assert found.rows == 1_500


def test_every_table_and_the_rest_make_the_database(site):
    use = site.look()

    names = {table.name for table in use.tables}
    assert {JOBS, "translation.tasks", "guardian.access_logs", "penstock.ledger", "penstock.table_sizes"} <= names
    assert sorted(use.tables, key=lambda table: (-table.bytes, table.name)) == use.tables
    assert use.total_bytes == site.size(DATABASE) > sum(table.bytes for table in use.tables) > 0


def test_growth_is_told_from_readings(site):
    """Of yesterday the last one that is a day old, of the average the oldest of the week."""
    size = site.size(JOBS)
    for age, less in [(8 * DAY - HOUR, 900), (7 * DAY, 700), (2 * DAY - HOUR, 400), (DAY, 100), (HOUR, 10)]:
        site.remember(JOBS, size - less, NOW - age)

    found = site.look().growth

    per_day = round(900 / ((8 * DAY - HOUR) / DAY))
    assert found == {JOBS: Growth(since_yesterday=100, since_last_week=700, per_day=per_day)}


def test_after_a_pause_nothing_is_of_yesterday(site):
    site.remember(JOBS, site.size(JOBS) - 30, NOW - 3 * DAY)
    assert site.look().growth == {JOBS: Growth(per_day=10)}


def test_growth_of_a_short_time_is_not_told(site):
    site.remember(JOBS, 0, NOW - HOUR + timedelta(seconds=1))
    site.remember("scheduler.pipelines", site.size("scheduler.pipelines") - 50, NOW - HOUR / 2 - HOUR / 2)
    site.remember("scheduler.executions", 0, NOW - 9 * DAY)
    site.remember("penstock.ledger", 0, NOW + HOUR)

    found = site.look().growth

    assert found == {JOBS: Growth(), "scheduler.pipelines": Growth(per_day=50 * 24)}


def test_a_run_keeps_a_reading_of_everything(site):
    done = site.run()
    again = site.run()

    kept = dict(site.query("SELECT table_name, bytes FROM penstock.table_sizes WHERE at = %s", NOW))
    tables = {table.name: table.bytes for table in site.look().tables}
    assert kept.keys() == tables.keys() | {DATABASE}
    assert kept[JOBS] == tables[JOBS]
    assert done.counts == {"tables": len(tables), "bytes": kept[DATABASE], "removed_readings": 0, "alarm": None}
    assert again.state == "done"
    assert site.query("SELECT count(*) FROM penstock.table_sizes") == [(len(kept),)]


def test_old_readings_are_thinned_and_removed(site):
    midnight = NOW.replace(hour=0)
    fine = [NOW - age for age in (HOUR, 7 * DAY, 8 * DAY)]
    first_of_days = [midnight - 9 * DAY, midnight - 100 * DAY + 5 * HOUR, midnight - 399 * DAY]
    gone = [first_of_days[0] + HOUR, first_of_days[1] + HOUR, first_of_days[1] + 2 * HOUR, NOW - 401 * DAY]
    for at in (*fine, *first_of_days, *gone):
        site.remember(JOBS, 1, at)
    site.remember("another.table", 1, gone[0])

    counts = [site.run(NOW, disk_readings_days=400).counts["removed_readings"] for _ in range(2)]

    assert counts == [len(gone), 0]
    kept = site.query("SELECT at FROM penstock.table_sizes WHERE table_name = %s AND at < %s ORDER BY at", JOBS, NOW)
    assert [at for (at,) in kept] == sorted([*fine, *first_of_days])
    assert site.query("SELECT count(*) FROM penstock.table_sizes WHERE table_name = 'another.table'") == [(1,)]


def test_over_the_threshold_is_an_alarm(site, caplog):
    size = site.size(DATABASE)

    with caplog.at_level(logging.ERROR):
        done = site.run(disk_alarm_bytes=size // 2)

    assert "PENSTOCK_DISK_ALARM_BYTES" in done.counts["alarm"]
    (line,) = [record for record in caplog.records if getattr(record, "action", "") == "disk_alarm"]
    assert done.counts["alarm"] in line.getMessage()
    assert site.look(disk_alarm_bytes=size * 2).alarm is None


@pytest.mark.parametrize(("days", "is_alarm"), [(0, False), (2, False), (4, True)])
def test_growth_that_leads_over_the_threshold_is_an_alarm(site, days, is_alarm):
    """300 MB more in three days, at 100 MB a day."""
    size = site.size(DATABASE)
    site.remember(DATABASE, size - 200_000_000, NOW - 2 * DAY)

    use = site.look(disk_alarm_bytes=size + 300_000_000, disk_alarm_days=days)

    # The database itself may have grown by a page meanwhile.
    assert use.days_left == pytest.approx(3, abs=0.1)
    assert (use.alarm is not None) == is_alarm
    if use.alarm:
        assert "a day" in use.alarm


def test_a_database_that_shrinks_has_no_days_left(site):
    site.remember(DATABASE, site.size(DATABASE) * 2, NOW - 2 * DAY)
    use = site.look(disk_alarm_bytes=10**12, disk_alarm_days=1_000)
    assert (use.days_left, use.alarm) == (None, None)


def test_by_hand(site):
    before = json.loads(penstock_here("disk", "--json", PENSTOCK_DATABASE_URL=site.url).stdout)
    largest = before["tables"][0]
    site.remember(largest["name"], largest["bytes"] - 8_192, datetime.now(UTC) - DAY - HOUR)

    as_json = penstock_here("disk", "--json", PENSTOCK_DATABASE_URL=site.url)
    for_people = penstock_here("disk", PENSTOCK_DATABASE_URL=site.url, COLUMNS="200")

    found = json.loads(as_json.stdout)
    assert (as_json.returncode, for_people.returncode) == (0, 0), as_json.stderr + for_people.stderr
    assert (found["alarm"], found["alarm_bytes"], found["days_left"]) == (None, None, None)
    assert found["tables"][0] == largest | {"since_yesterday": 8_192, "per_day": round(8_192 / ((DAY + HOUR) / DAY))}
    assert "+8.2 kB" in for_people.stdout
    assert "the whole database" in for_people.stdout
    assert f"{len(found['tables']) - TABLES_SHOWN} smaller ones" in for_people.stdout


def test_by_hand_an_alarm_is_one_line_and_exit_code_1(site):
    done = penstock_here("disk", "--json", PENSTOCK_DATABASE_URL=site.url, PENSTOCK_DISK_ALARM_BYTES="1000")

    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert json.loads(done.stdout)["alarm"] in done.stderr


def test_it_runs_hourly():
    assert all_jobs(Settings())["disk"].every_s == 3_600
