"""`penstock vacuum` and its job: every table and partition, nobody waited for, dead rows told."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from penstock_schemas.registry import load_registry
from penstock_worker.maintenance.job import Done, run_job
from penstock_worker.maintenance.jobs import all_jobs
from penstock_worker.settings import Settings
from penstock_worker.store.named_tables import all_tables
from tests.commands import penstock_here

JOBS = "scheduler.jobs"


class Site:
    """A database whose dead rows autovacuum leaves alone."""

    def __init__(self, url: str) -> None:
        self.url, self.registry = url, load_registry()

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def die(self, table: str, rows: int) -> None:
        """Make dead rows, which the server has heard of when this returns: the connection has ended."""
        self.query(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
        self.query(f"INSERT INTO {table} (id, _version) SELECT n, 1 FROM generate_series(1, {rows}) AS n")
        self.query(f"DELETE FROM {table}")

    def run(self, *tables: str, **settings: Any) -> Done:
        chosen = Settings(database_url=self.url, **settings)
        job = all_jobs(chosen)["vacuum"]
        return run_job(job, chosen, self.registry, started_by="test", arguments={"tables": list(tables)})


@pytest.fixture
def site(database_url: str) -> Site:
    return Site(database_url)


def test_dead_rows_are_gone_and_told(site):
    site.die(JOBS, 1_000)
    file = site.query(f"SELECT pg_relation_filenode('{JOBS}')")

    done = site.run(JOBS)

    assert done.counts == {
        "vacuumed": 1,
        "left": 0,
        "dead_before": 1_000,
        "dead_after": 0,
        "tables": {JOBS: {"before": 1_000, "after": 0}},
        "skipped": {},
    }
    assert site.query(f"SELECT pg_relation_filenode('{JOBS}')") == file, "VACUUM FULL would have written another file"


def test_rows_that_a_transaction_still_sees_stay(site):
    with psycopg.connect(site.url) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT 1 FROM penstock.ledger")
        site.die(JOBS, 10)
        assert site.run(JOBS).counts["tables"] == {JOBS: {"before": 10, "after": 10}}


def test_every_table_and_partition_is_done(site):
    site.query(
        "INSERT INTO guardian.metrics (id, timestamp, _version)"
        " SELECT gen_random_uuid(), now() - n * interval '10 days', 1 FROM generate_series(0, 5) AS n"
    )
    done = site.run()

    tables = ", ".join(f"'{table.full_name}'::regclass" for table in all_tables(site.registry))
    named = f"SELECT oid AS t, relkind FROM pg_class WHERE oid IN ({tables})"
    leaves = "SELECT t FROM tables WHERE relkind <> 'p' UNION ALL SELECT inhrelid FROM pg_inherits JOIN tables ON inhparent = t"
    once = f"SELECT DISTINCT vacuum_count FROM pg_stat_all_tables WHERE relid IN ({leaves})"
    assert site.query(f"WITH tables AS ({named}) {once}") == [(1,)]
    # What autovacuum never does, and the planner needs.
    whole = "SELECT count(*) FROM pg_stats WHERE schemaname = 'guardian' AND tablename = 'metrics' AND inherited"
    assert site.query(whole) != [(0,)]
    assert (done.counts["left"], done.counts["skipped"]) == (0, {})


def test_a_table_in_use_is_not_waited_for(site):
    with psycopg.connect(site.url) as other:
        other.execute(f"LOCK TABLE {JOBS} IN SHARE UPDATE EXCLUSIVE MODE".encode())
        other.execute("LOCK TABLE guardian.metrics IN ACCESS EXCLUSIVE MODE")
        done = site.run(JOBS, "penstock.ledger", "guardian.metric")

    assert done.state == "done", done
    skipped = done.counts["skipped"]
    assert JOBS in skipped
    assert "lock not available" in skipped[JOBS]
    assert "guardian.metrics" in skipped
    assert "penstock.ledger" not in skipped
    assert done.counts["vacuumed"] == 1


def test_a_run_that_is_out_of_time_leaves_the_rest_to_the_next(site):
    names = (JOBS, "scheduler.pipelines", "scheduler.executions")

    runs = [site.run(*names, vacuum_time_limit_s=1e-9).counts for _ in names]

    assert [(counts["vacuumed"], counts["left"]) for counts in runs] == [(1, 2)] * 3
    quoted = ", ".join(f"'{name}'" for name in names)
    assert site.query(
        f"SELECT count(*) FROM pg_stat_all_tables WHERE vacuum_count = 1 AND relid = ANY (ARRAY[{quoted}]::regclass[])"
    ) == [(3,)]


def test_by_hand(site):
    site.die(JOBS, 10)

    done = penstock_here("vacuum", "scheduler.job", "--json", PENSTOCK_DATABASE_URL=site.url)
    wrong = penstock_here("vacuum", "scheduler.jbo", PENSTOCK_DATABASE_URL=site.url)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["tables"] == {JOBS: {"before": 10, "after": 0}}
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "scheduler.job" in wrong.stderr
    assert site.query("SELECT count(*) FROM penstock.maintenance_runs") == [(1,)], "a slip of the pen is no run"


def test_it_runs_weekly():
    job = all_jobs(Settings())["vacuum"]
    assert (job.cron, job.every_s) == ("30 3 * * 0", None)
