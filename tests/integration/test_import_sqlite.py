"""`penstock import-sqlite`: files as old schedulers leave them, and what is in PostgreSQL afterwards."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from penstock_worker.takeover import run as takeover
from penstock_worker.takeover import sqlite_file
from tests.commands import penstock_here
from tests.replaying import Office, event

#: What the old scheduler made.
SCHEMA = """
    CREATE TABLE pipelines (
        name TEXT PRIMARY KEY, description TEXT, config TEXT NOT NULL DEFAULT '{}',
        created_at TEXT DEFAULT CURRENT_TIMESTAMP, updated_at TEXT
    );
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, pipeline TEXT REFERENCES pipelines (name), cron_expr TEXT,
        enabled INTEGER DEFAULT 1, next_run TEXT, last_run TEXT, last_result TEXT, created_at TEXT, updated_at TEXT
    );
    CREATE TABLE executions (
        id TEXT PRIMARY KEY, job_id TEXT REFERENCES jobs (id) ON DELETE CASCADE, pipeline TEXT, start_time TEXT, end_time TEXT,
        duration REAL, status TEXT, error TEXT, context TEXT, steps TEXT, triggered_by TEXT
    );
    CREATE INDEX executions_job ON executions (job_id);
"""
ROWS = """
    INSERT INTO pipelines VALUES ('daily', 'a report', '{"steps": ["load", {"n": 1.5}], "ü": null}',
        '2024-01-01 08:00:00', '2024-02-01T08:00:00.250000+02:00');
    INSERT INTO jobs VALUES ('j1', 'nightly', 'daily', '0 3 * * *', 1, '2099-01-01T03:00:00', '2024-03-01 03:00:00', 'ok',
        '2024-01-01T00:00:00Z', '2024-02-01T00:00:00');
    INSERT INTO jobs VALUES ('j2', 'off', NULL, NULL, 0, NULL, NULL, '', NULL, NULL);
    INSERT INTO executions VALUES ('e1', 'j1', 'daily', '2024-03-01 03:00:00', '2024-03-01 03:00:05', 5.25, 'completed', NULL,
        '{"run": 1}', '[{"name": "load", "ok": true}]', 'schedule');
    INSERT INTO executions VALUES ('e2', 'j1', 'daily', 1709348400, 1709348401.5, '1.5', 'FAILED', 'boom', '', NULL, 'cli');
"""


@pytest.fixture
def office(database_url: str):
    office = Office(database_url)
    yield office
    office.close()


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return make(tmp_path / "scheduler.db", SCHEMA + ROWS)


def make(file: Path, script: str, *rows: tuple[str, tuple[Any, ...]]) -> Path:
    """Make a file, or change it."""
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(script)
        for statement, values in rows:
            connection.execute(statement, values)
        connection.commit()
    return file


def execute(office: Office, file: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return penstock_here("import-sqlite", str(file), *words, PENSTOCK_DATABASE_URL=office.url, COLUMNS="200")


def take_over(office: Office, file: Path, *words: str, code: int = 0) -> dict[str, Any]:
    """What `--json` says."""
    done = execute(office, file, "--json", *words)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def refusal(office: Office, file: Path, *words: str) -> str:
    """The one line of a command that did nothing."""
    done = execute(office, file, *words)
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, "")
    assert everything(office) == ([], [], [], [])
    return done.stderr


def everything(office: Office) -> tuple[list[Any], ...]:
    """All rows with what Penstock notes of them, and the dead letters."""
    tables = ("scheduler.pipelines", "scheduler.jobs", "scheduler.executions", "penstock.dead_letters")
    return tuple(office.query(f"SELECT to_jsonb(t) FROM {table} AS t ORDER BY t::text") for table in tables)


def rows(office: Office, table: str, *columns: str) -> list[tuple[Any, ...]]:
    return office.query(f"SELECT {', '.join(columns)} FROM scheduler.{table} WHERE _version IS NOT NULL ORDER BY 1")


def letters(office: Office) -> list[tuple[Any, ...]]:
    found = office.query("SELECT convert_from(payload, 'UTF8'), type, state, reason FROM penstock.dead_letters")
    return sorted((re.search(r'"id":"([^"]*)"', payload)[1], *rest) for payload, *rest in found)


def outcomes(report: dict[str, Any]) -> dict[str, dict[str, int]]:
    return {name: table["outcomes"] for name, table in report["tables"].items()}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def micros(text: str) -> int:
    return int(at(text).timestamp() * 1_000_000)


# -- What becomes of values ----------------------------------------------------------------------------------------------------


def test_rows_become_records(office, old):
    report = take_over(office, old)

    assert outcomes(report) == {"pipelines": {"stored": 1}, "jobs": {"stored": 2}, "executions": {"stored": 2}}
    assert (report["refused"], report["orphans"], report["is_dry_run"]) == (0, 0, False)
    assert rows(office, "pipelines", "name", "config", "created_at", "updated_at", "_version") == [
        (
            "daily",
            {"steps": ["load", {"n": 1.5}], "ü": None},
            at("2024-01-01T08:00:00"),
            at("2024-02-01T06:00:00.250000"),
            micros("2024-02-01T06:00:00.250000"),
        )
    ]
    # The last run is when a job last changed; one without a time is as old as the newest row.
    newest = micros("2024-03-02T03:00:01.500000")
    assert rows(office, "jobs", "id", "pipeline", "enabled", "next_run", "last_result", "_version") == [
        ("j1", "daily", True, at("2099-01-01T03:00:00"), "ok", micros("2024-03-01T03:00:00")),
        ("j2", None, False, None, "", newest),
    ]
    fields = ("id", "job_id", "start_time", "end_time", "duration", "status", "error", "context", "steps", "_version")
    assert rows(office, "executions", *fields) == [
        (
            *("e1", "j1", at("2024-03-01T03:00:00"), at("2024-03-01T03:00:05"), 5.25, "completed", None),
            *({"run": 1}, [{"name": "load", "ok": True}], micros("2024-03-01T03:00:05")),
        ),
        (
            *("e2", "j1", at("2024-03-02T03:00:00"), at("2024-03-02T03:00:01.500000"), 1.5, "failed", "boom"),
            *(None, None, newest),
        ),
    ]
    assert letters(office) == []


@pytest.mark.parametrize(
    ("value", "time"),
    [
        ("2024-07-01 12:00:00", "2024-07-01T10:00:00"),  # in the zone that is said, which has summer time
        ("2024-01-01T12:00:00", "2024-01-01T11:00:00"),
        ("2024-01-01T12:00:00Z", "2024-01-01T12:00:00"),
        ("2024-01-01", "2023-12-31T23:00:00"),
        (1704110400, "2024-01-01T12:00:00"),
        (1704110400.5, "2024-01-01T12:00:00.500000"),
        (1704110400000, "2024-01-01T12:00:00"),
        (1704110400000000, "2024-01-01T12:00:00"),
        ("1704110400", "2024-01-01T12:00:00"),
        (b"2024-01-01T12:00:00Z", "2024-01-01T12:00:00"),
        ("", None),
    ],
)
def test_times_in_every_form(value, time):
    from zoneinfo import ZoneInfo

    from penstock_schemas.records.scheduler import SchedulerJob
    from penstock_worker.takeover.values import Reader

    read = Reader(ZoneInfo("Europe/Berlin"), {}).read(SchedulerJob.__record_type__.by_name["last_run"], value)
    assert (read and datetime.fromisoformat(read)) == (time and at(time))


def test_the_time_zone_is_an_option(office, old):
    take_over(office, old, "--time-zone", "America/New_York")
    assert rows(office, "executions", "id", "start_time")[0] == ("e1", at("2024-03-01T08:00:00"))
    assert "Nowhere" in execute(office, old, "--time-zone", "Nowhere/Else").stderr


def test_states_have_synonyms(office, old):
    make(old, "UPDATE executions SET status = CASE id WHEN 'e1' THEN 'success' ELSE 'kaputt' END")
    take_over(office, old, "--status", "Kaputt=failed")
    assert rows(office, "executions", "id", "status") == [("e1", "completed"), ("e2", "failed")]


def test_numbers_as_keys_are_texts(office, tmp_path):
    script = """
        CREATE TABLE scheduler_jobs (ID, Name TEXT);
        CREATE TABLE scheduler_executions (id INTEGER PRIMARY KEY, job_id, start_time TEXT);
        INSERT INTO scheduler_jobs VALUES (1, 'one');
        INSERT INTO scheduler_executions VALUES (7, 1, '2024-01-01'), (8, '1', '2024-01-01');
    """
    report = take_over(office, make(tmp_path / "old.db", script))

    assert rows(office, "jobs", "id", "name") == [("1", "one")]
    assert rows(office, "executions", "id", "job_id") == [("7", "1"), ("8", "1")]
    assert report["orphans"] == 0
    assert report["tables"]["scheduler_jobs"]["missing_columns"] == [
        *("pipeline", "cron_expr", "enabled", "next_run", "last_run", "last_result", "created_at", "updated_at")
    ]


def test_more_columns_are_kept_and_told(office, old):
    make(
        old,
        "ALTER TABLE jobs ADD owner TEXT; ALTER TABLE jobs ADD photo BLOB;"
        "UPDATE jobs SET owner = 'ann', photo = x'ff00' WHERE id = 'j1'",
    )

    done = execute(office, old)

    assert done.returncode == 0, done.stderr
    assert rows(office, "jobs", "id", "_extra") == [("j1", {"owner": "ann", "photo": {"base64": "/wA="}}), ("j2", None)]
    assert "jobs: no fields of scheduler.job, kept in _extra: owner, photo" in done.stdout


# -- What cannot be stored -----------------------------------------------------------------------------------------------------


def test_what_cannot_be_stored_is_a_dead_letter_and_told(office, old):
    insert = "INSERT INTO executions (id, job_id, start_time, status, context, error, duration) VALUES (?, ?, ?, ?, ?, ?, ?)"
    good = ("good", "j1", "2024-01-01", "pending", "{}", None, 1)
    bad = {
        "no job": {"job_id": None},
        "state": {"status": "sideways"},
        "json": {"context": "{'python': True}"},
        "list": {"context": "[1]"},
        "time": {"start_time": "last tuesday"},
        "nul": {"error": "a\x00b"},
        "bytes": {"error": b"\xff\xfe"},
        "infinity": {"duration": float("inf")},
        "huge": {"context": '{"n": 1e400}'},
    }
    names = ("id", "job_id", "start_time", "status", "context", "error", "duration")
    values = [{**dict(zip(names, good, strict=True)), "id": name, **wrong} for name, wrong in bad.items()]
    make(old, "", (insert, good), *((insert, tuple(value.values())) for value in values))
    make(old, "INSERT INTO executions (id, job_id, error) VALUES ('not utf8', 'j1', CAST(x'fffe' AS TEXT))")

    done = execute(office, old)
    again = take_over(office, old, code=1)

    assert done.returncode == 1
    # One letter each, however often the file is imported.
    reasons = {"nul": "nul_character"}
    assert letters(office) == sorted(
        (name, "scheduler.execution", "dead", reasons.get(name, "invalid")) for name in (*bad, "not utf8")
    )
    assert {row[0] for row in rows(office, "executions", "id")} == {"e1", "e2", "good"}
    assert again["tables"]["executions"]["outcomes"] == {"stored": 3, "dead": len(bad) + 1}
    lines = done.stderr.splitlines()
    assert len(lines) == len(bad) + 1
    assert lines[0].startswith("executions row 4 (no job) is dead: invalid, ")
    assert "job_id" in lines[0]
    assert f"rows that are not stored: {len(bad) + 1};" in done.stdout


def test_a_row_without_a_key_is_a_dead_letter(office, tmp_path):
    file = make(tmp_path / "old.db", "CREATE TABLE jobs (id, name); INSERT INTO jobs VALUES (NULL, 'who'), ('j', 'known')")
    assert outcomes(take_over(office, file, code=1)) == {"jobs": {"stored": 1, "dead": 1}}


def test_many_bad_rows_are_dead_and_not_held_back(office, old):
    """For a producer of now a thousand equal mistakes a minute look like a bad deploy."""
    make(old, "", *(("INSERT INTO jobs (id, name, enabled) VALUES (?, 'x', 'maybe')", (f"b{n}",)) for n in range(1_100)))

    done = execute(office, old)

    assert office.query("SELECT state, count(*) FROM penstock.dead_letters GROUP BY state") == [("dead", 1_100)]
    assert done.stderr.splitlines()[-1] == "and 1,050 rows more"
    assert len(done.stderr.splitlines()) == 51


def test_an_execution_of_a_missing_job_is_stored_and_counted(office, old):
    make(old, "PRAGMA foreign_keys = OFF; DELETE FROM jobs WHERE id = 'j1'")

    report = take_over(office, old)

    assert (report["orphans"], report["refused"]) == (2, 0)
    assert [row[0] for row in rows(office, "executions", "id")] == ["e1", "e2"]
    assert [row[0] for row in rows(office, "jobs", "id")] == ["j2"], "its placeholder is hidden"


def test_what_is_of_the_future_is_held(office, old):
    make(old, "UPDATE jobs SET updated_at = '2099-01-01' WHERE id = 'j1'")

    report = take_over(office, old, code=1)

    assert report["tables"]["jobs"]["outcomes"] == {"stored": 1, "held": 1}
    assert office.query("SELECT state, reason FROM penstock.dead_letters") == [("held", "clock_ahead")]
    assert rows(office, "jobs", "_version") == [(micros("2024-03-02T03:00:01.500000"),)], "nor does it date the others"


# -- Twice, and beside what is there -------------------------------------------------------------------------------------------


def test_a_second_import_changes_nothing(office, old):
    first = take_over(office, old)
    before = everything(office)

    second = take_over(office, old)

    assert everything(office) == before
    assert (first["was_imported"], second["was_imported"]) == (False, True)
    assert second | {"was_imported": False} == first
    seen = office.query("SELECT producer, high_water, is_closed FROM penstock.producers")
    assert seen == [("import-sqlite", 5, True)]
    audit = penstock_here("audit", "--json", PENSTOCK_DATABASE_URL=office.url, PENSTOCK_BROKER_URL="redis://127.0.0.1:1/0")
    (producer,) = json.loads(audit.stdout)["producers"]
    assert (producer["sent"], producer["outcomes"]["stored"], producer["missing"]) == (5, 5, 0)


def test_newer_rows_are_not_overwritten(office, old):
    office.write(event("scheduler.job", {"id": "j1", "name": "of today"}, version=micros("2024-03-01T03:00:00.000001")))
    office.write(event("scheduler.pipeline", {"name": "daily", "description": "of old"}, version=micros("2024-01-31T00:00:00")))

    report = take_over(office, old)

    assert rows(office, "jobs", "id", "name")[0] == ("j1", "of today")
    assert rows(office, "pipelines", "description") == [("a report",)]
    assert report["refused"] == 0


def test_a_later_state_of_the_file_wins_also_where_no_time_changed(office, old, tmp_path):
    """In either order."""
    later = Path(shutil.copy(old, tmp_path / "later.db"))
    make(
        later,
        "UPDATE jobs SET name = 'renamed' WHERE id = 'j1';"
        "INSERT INTO executions (id, job_id, start_time) VALUES ('e3', 'j1', '2024-04-01')",
    )
    take_over(office, old)
    epoch = UUID(take_over(office, later)["epoch"])
    take_over(office, old)

    assert epoch.int >> 80 == micros("2024-04-01T00:00:00") // 1_000, "of two epochs the one of the newer file is above"

    assert rows(office, "jobs", "id", "name")[0] == ("j1", "renamed")
    assert [row[0] for row in rows(office, "executions", "id")] == ["e1", "e2", "e3"]


def test_batches_of_every_size_give_the_same(office, old, monkeypatch):
    values = [(f"n{n:03d}", "j1", "2024-01-01", None if n % 7 else "[no]") for n in range(100)]
    make(old, "", *(("INSERT INTO executions (id, job_id, start_time, context) VALUES (?, ?, ?, ?)", row) for row in values))
    take_over(office, old, code=1)
    before = everything(office)
    monkeypatch.setattr(takeover, "MESSAGE_EVENTS", 3)
    monkeypatch.setenv("PENSTOCK_BATCH_MAX_EVENTS", "10")

    done = penstock_here(
        "import-sqlite",
        str(old),
        "--json",
        PENSTOCK_DATABASE_URL=office.url,
        PENSTOCK_BATCH_MAX_EVENTS="10",
        PENSTOCK_BATCH_MAX_BYTES="1024",
    )

    assert everything(office) == before
    assert json.loads(done.stdout)["tables"]["executions"]["outcomes"] == {"stored": 87, "dead": 15}


def test_a_dry_run_says_the_same_and_writes_nothing(office, old):
    make(old, "INSERT INTO jobs (id, name, enabled) VALUES ('bad', 'x', 'maybe')")

    rehearsed = execute(office, old, "--dry-run", "--json")

    assert everything(office) == ([], [], [], [])
    assert office.query("SELECT count(*) FROM penstock.ledger") == [(0,)]
    assert office.query("SELECT count(*) FROM penstock.producers") == [(0,)]
    assert "jobs row 3 (bad) is dead" in rehearsed.stderr
    real = take_over(office, old, code=1)
    assert json.loads(rehearsed.stdout) | {"is_dry_run": False} == real
    assert rehearsed.returncode == 1


# -- Files ---------------------------------------------------------------------------------------------------------------------


def test_a_file_in_wal_mode_is_read_as_it_is(office, old):
    """With what is in its log only, while the old scheduler has it open; and it is left alone."""
    with closing(sqlite3.connect(old)) as scheduler:
        scheduler.execute("PRAGMA journal_mode = WAL")
        scheduler.execute("PRAGMA wal_autocheckpoint = 0")
        scheduler.execute("INSERT INTO jobs (id, name) VALUES ('j3', 'in the log')")
        scheduler.commit()
        before = old.read_bytes()

        take_over(office, old)

        assert old.read_bytes() == before
        scheduler.execute("INSERT INTO jobs (id, name) VALUES ('j4', 'it goes on')")
        scheduler.commit()
    assert [row[0] for row in rows(office, "jobs", "id")] == ["j1", "j2", "j3"]


def test_a_file_in_wal_mode_in_a_folder_that_cannot_be_written(office, old, monkeypatch):
    """As root no folder is: SQLite itself is told that it cannot."""
    make(old, "PRAGMA journal_mode = WAL")
    begin, asked = sqlite_file._begin, []

    def refuse(file: Path, how: str) -> sqlite3.Connection:
        asked.append(how)
        if how == "mode=ro":
            error = sqlite3.OperationalError("unable to open database file")
            error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
            raise error
        return begin(file, how)

    monkeypatch.setattr(sqlite_file, "_begin", refuse)

    assert take_over(office, old)["refused"] == 0
    assert asked == ["mode=ro", "immutable=1"]
    for log in ("scheduler.db-wal", "scheduler.db-journal"):
        old.with_name(log).write_bytes(b"changes that would be missed")
        assert "copy it to a folder that may be written" in execute(office, old).stderr
        old.with_name(log).unlink()


def test_a_file_that_somebody_writes_is_one_line(office, old, monkeypatch):
    """Read past the lock, it would be half of the one state and half of the other."""
    monkeypatch.setattr(sqlite_file, "LOCK_TIMEOUT_S", 0.01)
    with closing(sqlite3.connect(old, isolation_level=None)) as scheduler:
        scheduler.execute("BEGIN EXCLUSIVE")
        assert "locked; stop who writes it" in refusal(office, old)


def test_what_is_not_sqlite_is_one_line(office, tmp_path):
    (tmp_path / "text").write_text("id,name\n1,x\n" * 100)
    (tmp_path / "empty").touch()
    for name in ("text", "empty"):
        assert "is not a SQLite database" in refusal(office, tmp_path / name)
    assert "No such file" in refusal(office, tmp_path / "nowhere")
    assert "Is a directory" in refusal(office, tmp_path)


def test_a_damaged_file_is_one_line(office, old):
    make(old, "", *(("INSERT INTO executions (id, job_id) VALUES (?, 'j1')", (f"x{n}",)) for n in range(2_000)))
    damaged = bytearray(old.read_bytes())
    damaged[4096:] = b"\x55" * (len(damaged) - 4096)
    old.write_bytes(damaged)

    line = refusal(office, old)

    assert "cannot be read" in line
    assert "malformed" in line


def test_a_file_without_the_tables_is_one_line(office, tmp_path):
    line = refusal(office, make(tmp_path / "old.db", "CREATE TABLE users (id); CREATE TABLE posts (id)"))
    assert "none of the tables pipelines, jobs, executions, it has posts, users" in line
    assert "--table" in line


def test_tables_with_a_prefix_are_found_and_others_told(office, tmp_path):
    file = make(
        tmp_path / "old.db", "CREATE TABLE app_jobs (id, name); INSERT INTO app_jobs VALUES ('j', 'x'); CREATE TABLE logs (x)"
    )
    done = execute(office, file)
    assert rows(office, "jobs", "id") == [("j",)]
    assert "tables that are not imported: logs" in done.stdout


def test_which_table_it_is_can_be_said(office, tmp_path):
    file = make(
        tmp_path / "old.db",
        "CREATE TABLE a_jobs (id, name); CREATE TABLE b_jobs (id, name); INSERT INTO b_jobs VALUES ('j', 'x')",
    )

    line = refusal(office, file)
    assert "a_jobs or b_jobs" in line
    assert "--table job=" in line
    assert "has no table c_jobs" in refusal(office, file, "--table", "job=c_jobs")
    assert "--table thing" in refusal(office, file, "--table", "thing=b_jobs")
    assert "--table b_jobs" in refusal(office, file, "--table", "b_jobs")

    assert outcomes(take_over(office, file, "--table", "jobs=b_jobs")) == {"b_jobs": {"stored": 1}}


def test_a_table_without_its_key_is_one_line(office, tmp_path):
    line = refusal(office, make(tmp_path / "old.db", "CREATE TABLE executions (id, start_time)"))
    assert "executions has no column job_id" in line


def test_a_database_that_is_away_or_not_migrated_is_one_line(old, empty_database_url):
    away = penstock_here("import-sqlite", str(old))
    empty = penstock_here("import-sqlite", str(old), PENSTOCK_DATABASE_URL=empty_database_url)

    assert [(done.returncode, done.stderr.count("\n")) for done in (away, empty)] == [(2, 1), (2, 1)]
    assert "PENSTOCK_DATABASE_URL" in away.stderr
    assert "penstock migrate up" in empty.stderr
