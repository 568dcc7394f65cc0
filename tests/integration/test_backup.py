"""Backups: what is in one, that it comes back, and that nothing else is ever taken for one."""

from __future__ import annotations

import json
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import CompletedProcess

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from penstock_migrations.packages import OWN_PACKAGE
from penstock_migrations.run import downgrade, upgrade
from penstock_schemas.registry import load_registry
from penstock_worker.errors import ConfigurationError
from penstock_worker.maintenance import restore as restoring
from penstock_worker.maintenance.backup import make_backup
from penstock_worker.maintenance.job import Done, Progress, Work, run_job
from penstock_worker.maintenance.jobs import all_jobs
from penstock_worker.settings import Settings
from penstock_worker.store.backup.opened import open_backup
from penstock_worker.store.backup.programs import find_programs
from penstock_worker.store.backup.scratch import connect_to_server, scratch_database
from penstock_worker.store.backup.seal import make_key
from penstock_worker.store.backup.shelf import list_backups, new_backup
from penstock_worker.store.backup.sums import TableSum, list_tables, sum_tables
from penstock_worker.store.connection import Connection
from penstock_worker.store.privacy.erase import erase_person
from penstock_worker.store.privacy.log import Request
from tests.acceptance.witness import until
from tests.backing_up import content_of, databases_beside, fill, people_in
from tests.commands import penstock_here
from tests.servers.databases import PostgresServer

NOW = datetime(2026, 3, 1, 2, tzinfo=UTC)
Command = Callable[..., CompletedProcess[str]]


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    return tmp_path / "backups"


@pytest.fixture
def penstock(database_url: str, shelf: Path) -> Command:
    """A command with a filled database."""
    fill(database_url)

    def run(*words: str, **environment: str) -> CompletedProcess[str]:
        urls = {"PENSTOCK_DATABASE_URL": database_url, "PENSTOCK_BACKUP_FOLDER": str(shelf)}
        return penstock_here(*words, **urls | environment)

    return run


@pytest.fixture
def limited_url(postgres_server: PostgresServer, database_url: str) -> Iterator[str]:
    """The database's URL for a role without rights."""
    postgres_server.run("CREATE ROLE limited LOGIN PASSWORD 'limited'")
    yield f"postgresql://limited:limited@{database_url.rpartition('@')[2]}"
    with psycopg.connect(database_url) as connection:
        connection.execute("DROP OWNED BY limited")
        connection.execute("DROP ROLE limited")


def back_up(
    url: str, shelf: Path, now: datetime = NOW, progress: Progress = lambda done, total: None, **settings: object
) -> Done:
    """As beat does it."""
    chosen = Settings(database_url=url, backup_folder=shelf).model_copy(update=settings)
    job = all_jobs(chosen)["backup"]
    return run_job(job, chosen, load_registry(), started_by="test", now=lambda: now, progress=progress)


def only(shelf: Path) -> Path:
    (backup,) = shelf.iterdir()
    return backup


def assert_one_line(done: CompletedProcess[str], *words: str, code: int = 2) -> None:
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stdout + done.stderr
    assert [word for word in words if word not in done.stderr] == []


def test_what_was_backed_up_comes_back(penstock: Command, database_url: str, shelf: Path) -> None:
    """Over a database that has gone on since, with somebody connected who does not want to go."""
    before = content_of(database_url)
    made = penstock("backup", "--json")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DELETE FROM translation.tasks; UPDATE translation.sessions SET user_id = 'mallory'")
        connection.execute("CREATE TABLE translation.newer (n int)")
        connection.execute(f'ALTER DATABASE {connection.info.dbname} SET search_path = translation, "a b"')

        refused = penstock("restore", "latest")
        done = penstock("restore", "latest", "--yes", "--json")

        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    assert_one_line(refused, "clients are connected to the database (1)", "--yes")
    assert done.returncode == 0, done.stderr
    summary, restored = json.loads(made.stdout), json.loads(done.stdout)
    assert summary.keys() == {"backup_id", "size", "timestamp"}
    assert summary["backup_id"] == restored["backup_id"] == only(shelf).name
    assert (restored["replaced"], restored["migrated"], restored["left_out"]) == (True, [], [])
    assert content_of(database_url) == before
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SHOW search_path").fetchone() == ('translation, "a b"',)
        assert connection.execute("SELECT to_regclass('translation.newer')").fetchone() == (None,)
    assert databases_beside(database_url) == []


def test_plain_sql_comes_back_into_an_empty_database(
    penstock: Command, database_url: str, empty_database_url: str, shelf: Path
) -> None:
    made = penstock("backup", "--format", "plain")
    verified = penstock("verify", "latest", "--json")
    done = penstock("restore", only(shelf).name, "--into", empty_database_url)

    assert (made.returncode, verified.returncode, done.returncode) == (0, 0, 0), made.stderr + verified.stderr + done.stderr
    assert json.loads(verified.stdout)["is_good"] is True
    assert (only(shelf) / "dump.sql.gz").exists()
    assert content_of(empty_database_url) == content_of(database_url)


def test_an_encrypted_backup_opens_with_its_key_only(penstock: Command, shelf: Path, tmp_path: Path) -> None:
    for name in ("key", "other"):
        assert penstock("backup-key", str(tmp_path / name)).returncode == 0
    key, public = str(tmp_path / "key"), str(tmp_path / "key.pub")

    assert penstock("backup", "--key-file", public).returncode == 0

    assert sorted(path.name for path in only(shelf).iterdir()) == [
        "backup.json",
        "dump.custom.age",
        "manifest.json.age",
        "schedule.json.age",
        "settings.json.age",
    ]
    assert [path for path in only(shelf).iterdir() if b"translation" in path.read_bytes()] == []
    assert penstock("verify", "latest", "--identity-file", key).returncode == 0
    assert_one_line(penstock("verify", "latest"), "is encrypted", "--identity-file")
    assert_one_line(penstock("verify", "latest", "--identity-file", str(tmp_path / "other")), "not one of those")
    assert_one_line(penstock("verify", "latest", "--identity-file", public), "no secret key")
    assert_one_line(penstock("backup", "--key-file", key), "secret key", f"{key}.pub")
    assert_one_line(penstock("backup-key", key), "is there already")


def test_secrets_and_strangers_stay_out(penstock: Command, database_url: str, shelf: Path) -> None:
    password = str(conninfo_to_dict(database_url)["password"])
    assert penstock("backup", PENSTOCK_BROKER_URL="redis://:p@ss/w:rd@127.0.0.1:1/0").returncode == 0

    texts = [path.read_bytes() for path in only(shelf).iterdir()]
    assert [text for text in texts if password.encode() in text or b"ss/w" in text] == []
    modes = {stat.S_IMODE(path.stat().st_mode) for path in only(shelf).iterdir()}
    assert (modes, stat.S_IMODE(only(shelf).stat().st_mode)) == ({0o600}, 0o700)


def test_damage_is_found(penstock: Command, shelf: Path) -> None:
    assert penstock("backup").returncode == 0
    dump = only(shelf) / "dump.custom"
    with dump.open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)[0]
        file.seek(1000)
        file.write(bytes([byte ^ 1]))

    assert_one_line(penstock("verify", "latest"), "is not good", "dump.custom", "SHA-256", code=1)
    assert_one_line(penstock("restore", "latest", "--yes"), "damaged", "nothing was changed")
    dump.unlink()
    assert [found["state"] for found in json.loads(penstock("backups", "--json").stdout)["backups"]] == ["damaged"]
    assert_one_line(penstock("verify", only(shelf).name), "dump.custom is missing", code=1)
    assert_one_line(penstock("verify", "latest"), "there is no backup")


def test_rows_that_come_while_it_is_made_are_in_no_part_of_it(database_url: str, shelf: Path) -> None:
    fill(database_url)

    def insert(done: int, total: int | None) -> None:
        if total == 2 * done:  # all tables are summed, pg_dump is not started yet
            with psycopg.connect(database_url) as connection:
                connection.execute("INSERT INTO translation.sessions (session_id) VALUES (gen_random_uuid())")

    assert back_up(database_url, shelf, progress=insert).state == "done"
    assert verify(database_url, shelf).problems == []


def test_a_partition_may_be_dropped_as_it_begins(database_url: str, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By retention, between the look which tables there are and the lock that keeps them."""

    dropped: list[str] = []

    def list_and_drop(connection: Connection) -> list[tuple[str, str]]:
        found = list_tables(connection)
        if not dropped:
            dropped.extend(name for _, name in found if name.startswith("access_logs_y"))
            with psycopg.connect(database_url) as other:
                other.execute(f"DROP TABLE guardian.{dropped[0]}")
        return found

    monkeypatch.setattr("penstock_worker.store.backup.dump.list_tables", list_and_drop)

    assert back_up(database_url, shelf).state == "done"
    assert f"guardian.{dropped[0]}" not in (only(shelf) / "manifest.json").read_text()


def test_other_rows_than_were_counted_are_found(database_url: str, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(database_url)

    def miscount(connection: Connection, on_table: Callable[[int, int], None]) -> dict[str, TableSum]:
        sums = sum_tables(connection, on_table)
        sums["translation.sessions"] = TableSum(5, sums["translation.sessions"].checksum)
        sums["translation.tasks"] = TableSum(50, "1")
        return sums

    monkeypatch.setattr("penstock_worker.maintenance.backup.sum_tables", miscount)
    back_up(database_url, shelf)

    assert verify(database_url, shelf).problems == [
        "translation.sessions has 4 rows instead of 5",
        "translation.tasks has other content in its 50 rows",
    ]
    assert databases_beside(database_url) == []


def test_a_killed_backup_is_none(database_url: str, shelf: Path) -> None:
    """Killed while it waits for a table that is locked; what it left goes with the next one."""
    environment = {**os.environ, "PENSTOCK_DATABASE_URL": database_url, "PENSTOCK_BACKUP_FOLDER": str(shelf)}
    with psycopg.connect(database_url) as connection:
        connection.execute("LOCK TABLE translation.sessions")
        process = subprocess.Popen([sys.executable, "-m", "penstock_worker", "backup"], env=environment)
        try:
            until(lambda: shelf.is_dir() and any(shelf.iterdir()))
            assert list_backups(shelf) == []
        finally:
            process.kill()
            process.wait()
    left = only(shelf)
    # The server hears of the kill a moment later, and until then the run is under way.
    until(lambda: back_up(database_url, shelf).state == "done")

    assert left.name.startswith(".new-")
    assert [each.is_whole for each in list_backups(shelf)] == [True]
    assert only(shelf).name == list_backups(shelf)[0].path.name


def test_what_somebody_else_is_making_is_left_alone(database_url: str, shelf: Path) -> None:
    with new_backup(shelf, "20260101-000000-0000") as draft:
        back_up(database_url, shelf)
        assert draft.is_dir()


def test_a_killed_pg_dump_leaves_nothing(penstock: Command, shelf: Path, tmp_path: Path) -> None:
    programs = find_programs(18)
    for name in ("pg_restore", "psql"):
        (tmp_path / name).symlink_to(programs.folder / name)
    fake = tmp_path / "pg_dump"
    fake.write_text('#!/bin/sh\n[ "$1" = --version ] && exec echo "pg_dump (PostgreSQL) 18.4"\necho half of it\nkill -9 $$\n')
    fake.chmod(0o755)

    done = penstock("backup", PENSTOCK_POSTGRES_PROGRAMS=str(tmp_path))

    assert_one_line(done, "pg_dump was ended by signal 9")
    assert list(shelf.iterdir()) == []


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_a_full_disk_is_one_line(penstock: Command, shelf: Path, tmp_path: Path, is_encrypted: bool) -> None:
    """Said by a limit of the size of files, which any process may have."""
    options = []
    if is_encrypted:
        penstock("backup-key", str(tmp_path / "key"))
        options = ["--key-file", str(tmp_path / "key.pub")]
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, usual[1]))
    try:
        done = penstock("backup", *options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)

    assert_one_line(done, "File too large")
    assert list(shelf.iterdir()) == []


def test_a_role_without_rights_is_one_line(penstock: Command, database_url: str, limited_url: str, shelf: Path) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("GRANT ALL ON SCHEMA penstock, translation TO limited")
        connection.execute("GRANT ALL ON ALL TABLES IN SCHEMA penstock TO limited")

    done = penstock("backup", PENSTOCK_DATABASE_URL=limited_url)
    back_up(database_url, shelf)
    verified = penstock("verify", "latest", PENSTOCK_DATABASE_URL=limited_url)

    assert_one_line(done, "may not", "permission denied")
    assert_one_line(verified, "the role limited may not make databases", "CREATEDB")
    assert len(list(shelf.iterdir())) == 1


def test_old_backups_go_but_never_the_newest(database_url: str, shelf: Path) -> None:
    first = back_up(database_url, shelf, NOW)
    second = back_up(database_url, shelf, NOW + timedelta(days=31), backup_keep_days=-1)
    third = back_up(database_url, shelf, NOW + timedelta(days=40))

    assert (first.counts["removed"], second.counts["removed"]) == ([], [])
    assert third.counts["removed"] == [first.counts["backup_id"]]
    assert [each.path.name for each in list_backups(shelf)] == [second.counts["backup_id"], third.counts["backup_id"]]


def test_a_restore_that_fails_changes_nothing(penstock: Command, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails after the backup is loaded, when it is migrated."""
    assert penstock("backup").returncode == 0
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE translation.sessions SET user_id = 'since then'")
    before = content_of(database_url)

    def fail(*_: object) -> list[str]:
        raise ConfigurationError("this migration cannot be applied")

    monkeypatch.setattr(restoring, "upgrade", fail)
    refused = penstock("restore", "latest")
    done = penstock("restore", "latest", "--yes")

    assert_one_line(refused, "have rows", "guardian.memories", "--yes")
    assert_one_line(done, "this migration cannot be applied")
    assert content_of(database_url) == before
    assert databases_beside(database_url) == []


def test_an_old_backup_is_migrated(penstock: Command, database_url: str, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, registry = Settings(database_url=database_url, backup_folder=shelf), load_registry()
    downgrade(database_url, registry, OWN_PACKAGE, "0003")
    monkeypatch.setattr("penstock_worker.maintenance.backup._schedule", lambda snapshot: [])  # there was none yet
    with psycopg.connect(database_url, autocommit=True) as connection:
        make_backup(Work(settings, registry, connection, NOW))
    missed = upgrade(database_url, registry)

    done = penstock("restore", "latest", "--yes", "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["migrated"] == missed != []


def test_who_was_erased_since_stays_erased(penstock: Command, database_url: str) -> None:
    assert penstock("backup").returncode == 0
    assert people_in(database_url) == ["ada", "bob"]
    settings, registry = Settings(database_url=database_url), load_registry()
    with psycopg.connect(database_url, autocommit=True) as connection:
        erase_person(connection, registry, settings, Request("ada", "a test", "she asked"))

    done = penstock("restore", "latest", "--yes")

    assert done.returncode == 0, done.stderr
    assert "erased people were erased again" in done.stdout
    assert people_in(database_url) == ["bob"]
    with psycopg.connect(database_url) as connection:
        tasks = connection.execute("SELECT count(*) FROM translation.tasks WHERE _version IS NOT NULL").fetchone()
        log = connection.execute("SELECT action, who FROM penstock.privacy_log").fetchall()
    assert (tasks, log) == ((0,), [("erase", "a test")])


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_half_a_dump_leaves_an_empty_database_empty(
    database_url: str, empty_database_url: str, shelf: Path, tmp_path: Path, is_encrypted: bool
) -> None:
    fill(database_url)
    make_key(tmp_path / "key", NOW)
    back_up(database_url, shelf, backup_key_file=tmp_path / "key.pub" if is_encrypted else None)
    (found,) = list_backups(shelf)
    assert found.header is not None
    opened = open_backup(found.path, found.header, tmp_path / "key")
    dump = found.path / found.header.name_of("dump.custom")
    os.truncate(dump, dump.stat().st_size - 5000)

    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        with pytest.raises(ConfigurationError, match="cannot be decrypted" if is_encrypted else "pg_restore says"):
            opened.load(connection, empty_database_url, programs_folder=None, is_whole_or_nothing=True)

        assert list_tables(connection) == []


def test_what_a_killed_verify_left_is_dropped(penstock: Command, database_url: str, postgres_server: PostgresServer) -> None:
    assert penstock("backup").returncode == 0
    postgres_server.run("CREATE DATABASE penstock_scratch_left")
    with connect_to_server(database_url) as server, scratch_database(server) as in_use:
        assert penstock("verify", "latest").returncode == 0
        assert databases_beside(database_url) == [in_use]
    assert databases_beside(database_url) == []


def verify(url: str, shelf: Path) -> restoring.Verified:
    (found,) = list_backups(shelf)
    assert found.header is not None
    settings = Settings(database_url=url)
    return restoring.verify_backup(found.path, found.header, settings, progress=lambda name, done, total: None)
