"""The parts of backups that need no server: the folder they lie in, keys, programs, and what is told of settings."""

from __future__ import annotations

import io
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import Settings
from penstock_worker.store.backup.header import Header, StoredFile, damage, read_header, write_header
from penstock_worker.store.backup.manifest import differences
from penstock_worker.store.backup.programs import as_words, find_programs
from penstock_worker.store.backup.seal import make_key, open_stream, read_identities, read_recipients, seal_stream
from penstock_worker.store.backup.shelf import find_backup, list_backups, new_backup, outdated, remove
from penstock_worker.store.backup.sums import TableSum

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def put(shelf: Path, name: str, *, days_ago: float = 0, is_whole: bool = True, is_readable: bool = True) -> Path:
    """A backup of one file."""
    folder = shelf / name
    folder.mkdir(parents=True)
    (folder / "dump.custom").write_bytes(b"abc" if is_whole else b"ab")
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    files = {"dump.custom": StoredFile(3, sha256)}
    written = write_header(folder, Header(name, NOW - timedelta(days=days_ago), 3, "custom", False, files))
    if not is_readable:
        written.write_text("{")
    return folder


@pytest.mark.parametrize(("keep_days", "gone"), [(-1, []), (30, ["a", "b"]), (40, ["a"]), (0, ["a", "b", "c"])])
def test_backups_are_kept_so_long(tmp_path: Path, keep_days: int, gone: list[str]) -> None:
    for name, days_ago in {"a": 50, "b": 31, "c": 30, "d": 29}.items():
        put(tmp_path, name, days_ago=days_ago)

    assert [each.path.name for each in outdated(list_backups(tmp_path), NOW, keep_days)] == gone


def test_the_newest_whole_one_stays_however_old(tmp_path: Path) -> None:
    put(tmp_path, "a", days_ago=90)
    put(tmp_path, "b", days_ago=80)
    put(tmp_path, "c", days_ago=70, is_whole=False)
    put(tmp_path, "d", days_ago=60, is_readable=False)

    found = list_backups(tmp_path)

    assert [(each.path.name, each.is_whole) for each in found] == [("a", True), ("b", True), ("c", False), ("d", False)]
    assert [each.path.name for each in outdated(found, NOW, 30)] == ["a", "c"]
    assert find_backup(tmp_path, "latest")[0].name == "b"


def test_what_is_being_removed_is_no_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a")
    monkeypatch.setattr("shutil.rmtree", lambda path: None)  # killed before it begins

    remove(list_backups(tmp_path)[0])

    monkeypatch.undo()
    assert list_backups(tmp_path) == []
    with new_backup(tmp_path, "b"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_backup_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with new_backup(tmp_path / "deep" / "shelf", "a") as draft:
            (draft / "dump.custom").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list((tmp_path / "deep" / "shelf").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "has no backup.json"), ("{", "damaged"), ("[]", "damaged"), ('{"penstock_backup": 2}', "newer Penstock")],
)
def test_a_folder_that_is_no_backup_is_one_line(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "backup.json").write_text(text)
    with pytest.raises(ConfigurationError, match=words):
        read_header(tmp_path)


def test_damage_is_told_by_file(tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    folder = put(tmp_path, "a")
    assert damage(folder, read_header(folder), lambda done, total: told.append((done, total))) == []
    assert told == [(3, 3)]
    (folder / "dump.custom").write_bytes(b"abd")
    assert damage(folder, read_header(folder), lambda done, total: None) == [
        "dump.custom is not what was written: its SHA-256 is another"
    ]


def test_differences_are_told_by_table() -> None:
    expected = {"a.same": TableSum(1, "5"), "a.rows": TableSum(1, "5"), "a.lost": TableSum(0, "0"), "a.other": TableSum(2, "7")}
    found = {"a.same": TableSum(1, "5"), "a.rows": TableSum(2, "5"), "a.new": TableSum(0, "0"), "a.other": TableSum(2, "8")}

    assert differences(expected, found) == [
        "a.lost was not restored",
        "a.new is not in the manifest",
        "a.other has other content in its 2 rows",
        "a.rows has 2 rows instead of 1",
    ]


def test_a_key_opens_what_was_sealed_for_it(tmp_path: Path) -> None:
    public = make_key(tmp_path / "key", NOW)
    sealed, opened = io.BytesIO(), io.BytesIO()
    text = os.urandom(300_000)
    seal_stream(io.BytesIO(text), sealed, read_recipients(public))
    sealed.seek(0)

    open_stream(sealed, opened, read_identities(tmp_path / "key"))

    assert opened.getvalue() == text
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_a_sealed_stream_that_was_cut_is_found_out(tmp_path: Path) -> None:
    """Also between two of its chunks, where each of them alone is whole."""
    public, sealed = make_key(tmp_path / "key", NOW), io.BytesIO()
    seal_stream(io.BytesIO(bytes(300_000)), sealed, read_recipients(public))
    header = len(sealed.getvalue()) - 300_000 - 5 * 16
    identities = read_identities(tmp_path / "key")
    for length in (header + 65_536 + 16, header + 100):
        with pytest.raises(ConfigurationError, match="cannot be decrypted"):
            open_stream(io.BytesIO(sealed.getvalue()[:length]), io.BytesIO(), identities)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "no key\n", "age1nonsense\n"])
def test_a_key_file_without_a_key_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(ConfigurationError, match="no public key"):
        read_recipients(tmp_path / "key")
    with pytest.raises(ConfigurationError, match="no secret key"):
        read_identities(tmp_path / "key")


def fake_programs(folder: Path, major: int) -> Path:
    folder.mkdir()
    for name in ("pg_dump", "pg_restore", "psql"):
        (folder / name).write_text(f'#!/bin/sh\necho "{name} (PostgreSQL) {major}.3 (Debian {major}.3-1)"\n')
        (folder / name).chmod(0o755)
    return folder


def test_programs_that_are_too_old_or_missing_are_one_line(tmp_path: Path) -> None:
    old = fake_programs(tmp_path / "old", 15)
    assert find_programs(15, old).major == find_programs(14, old).major == 15
    with pytest.raises(ConfigurationError, match=r"pg_dump 15 is too old for PostgreSQL 17: install .*postgresql-client-17"):
        find_programs(17, old)
    (old / "psql").unlink()
    with pytest.raises(ConfigurationError, match=r"there are no pg_dump, pg_restore, psql in .*PENSTOCK_POSTGRES_PROGRAMS"):
        find_programs(15, old)


def test_the_programs_of_the_servers_version_are_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [fake_programs(tmp_path / str(major), major) for major in (18, 16, 17, 15)]
    monkeypatch.setattr("penstock_worker.store.backup.programs._usual_folders", lambda: folders)
    assert [find_programs(major).major for major in (15, 16, 17, 18)] == [15, 16, 17, 18]
    assert find_programs(14).major == 15


def test_the_password_is_not_on_the_command_line() -> None:
    words, environment = as_words("postgresql://ada:s3cr3t%40@db.example:5433/shop?sslmode=require")

    assert {"user=ada", "dbname=shop", "host=db.example", "port=5433", "sslmode=require"} < set(words.split())
    assert "s3cr3t" not in words
    assert environment["PGPASSWORD"] == "s3cr3t@"
    for option in ("sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"):
        with pytest.raises(ConfigurationError, match=option):
            as_words(f"postgresql://ada@db.example/shop?{option}=x")


def test_a_server_that_is_gone_is_not_waited_for() -> None:
    words, _ = as_words("postgresql://ada@db.example/shop?keepalives_idle=60")

    assert {"keepalives_idle=60", "keepalives_interval=5", "keepalives_count=3"} < set(words.split())


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://:a@b/c:d@127.0.0.1:6379/0", "redis://:***@127.0.0.1:6379/0"),
        ("amqp://ada:pw@mq//?password=pw", "amqp://ada:***@mq//?password=***"),
    ],
)
def test_settings_are_told_without_passwords(url: str, told: str) -> None:
    settings = Settings(
        broker_url=url,
        database_url="postgresql://ada@db/shop?sslpassword=pw&scram_client_key=pw&sslmode=require",
        records=("a.b",),
    )

    described = settings.describe()

    assert described["broker_url"] == told
    assert described["database_url"] == "postgresql://ada@db/shop?sslpassword=***&scram_client_key=***&sslmode=require"
    assert described["records"] == ["a.b"]
    assert described.keys() == Settings.model_fields.keys()
