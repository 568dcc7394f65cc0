"""One spool file and the folder around it: modes, caps, locks, and what cannot be read."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from penstock_producers.spool import folder
from penstock_producers.spool.file import SpoolCorrupt, SpoolFile, SpoolRefused
from penstock_producers.spool.folder import Lock, address_of, destination_of, orphans
from penstock_producers.spool.listing import list_spools
from penstock_schemas.ranges import Ranges
from penstock_schemas.wire import new_epoch
from tests.producing import in_child

# Python 3.12 warns at every fork under threads; that it is safe is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

META = {"producer": "shop", "journal": 0}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / f"{new_epoch()}.spool"


@pytest.fixture
def file(path: Path) -> Iterator[SpoolFile]:
    file = SpoolFile.create(path, META, max_bytes=1_000_000, is_synced=False)
    yield file
    file.close()


def test_what_is_appended_is_read_in_order_by_who_opens_it_later(file: SpoolFile, path: Path) -> None:
    file.append([(7, b"seven"), (5, b"five"), (6, b"six")])
    file.append([(10, b"ten")])
    file.append([(10, b"again"), (11, b"eleven")])
    file.set_meta(next_seq=12)
    file.close()
    found = SpoolFile.open(path, max_bytes=1_000_000)
    try:
        assert found.meta() == {"producer": "shop", "journal": 0, "next_seq": 12}
        assert (found.ranges(), found.count()) == ([(5, 7), (10, 11)], 5)
        assert found.read(6, 10, 1_000) == [(6, b"six"), (7, b"seven"), (10, b"ten")]
        assert found.read(5, 11, 9) == [(5, b"five"), (6, b"six")]
        assert found.read(11, 11, 1) == [(11, b"eleven")]
        found.delete([(5, 6), (10, 10)])
        assert found.ranges() == [(7, 7), (11, 11)]
    finally:
        found.close()


def test_only_its_owner_reads_it(file: SpoolFile, path: Path) -> None:
    file.append([(1, b"one")])
    modes = {part.name.removeprefix(path.stem): part.stat().st_mode & 0o777 for part in path.parent.iterdir()}
    assert modes == {".spool": 0o600, ".spool-wal": 0o600, ".spool-shm": 0o600}


def test_the_cap_refuses_all_of_an_append_and_deleting_makes_room(path: Path) -> None:
    file = SpoolFile.create(path, META, max_bytes=200_000, is_synced=False)
    try:
        for count in range(0, 1_000, 10):
            try:
                file.append([(count + number, b"x" * 1_000) for number in range(10)])
            except SpoolRefused:
                break
        assert 100 <= count < 200
        assert file.count() == count
        file.delete([(0, count - 1)])
        file.append([(1_000, b"x" * 1_000)])
        assert file.ranges() == [(1_000, 1_000)]
    finally:
        file.close()


def test_an_emptied_file_gives_its_disk_back(file: SpoolFile) -> None:
    file.append([(number, b"x" * 1_000) for number in range(500)])
    before = file.size_bytes
    file.delete([(0, 499)])
    file.shrink()
    assert file.size_bytes < before / 5


@pytest.mark.parametrize("is_synced", [True, False])
def test_fsync_is_the_files_own_for_life(path: Path, is_synced: bool) -> None:
    SpoolFile.create(path, {**META, "fsync": int(is_synced)}, max_bytes=1_000_000, is_synced=is_synced).close()
    file = SpoolFile.open(path, max_bytes=1_000_000)
    try:
        assert file._connection.execute("PRAGMA synchronous").fetchone() == (2 if is_synced else 1,)
    finally:
        file.close()


def garbage(path: Path) -> None:
    path.write_bytes(b"this was never a database" * 1_000)


def truncated(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def overwritten(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4_096 : len(content) - 4_096] = b"\xff" * (len(content) - 8_192)
    path.write_bytes(content)


def of_another_release(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


def of_another_program(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE cookies (id)")
        connection.execute("PRAGMA user_version = 1")
    connection.close()


@pytest.mark.parametrize("damage", [garbage, truncated, overwritten, of_another_release, of_another_program])
def test_what_cannot_be_read_is_told_from_what_cannot_be_read_now(
    damage: Callable[[Path], None], file: SpoolFile, path: Path
) -> None:
    file.append([(number, b"x" * 1_000) for number in range(100)])
    file.close()
    damage(path)
    with pytest.raises(SpoolCorrupt):
        SpoolFile.open(path, max_bytes=1_000_000).close()


def test_a_file_that_was_never_finished_is_empty_and_not_corrupt(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    file = SpoolFile.open(path, max_bytes=1_000_000)
    try:
        assert (file.ranges(), file.meta()) == ([], {})
    finally:
        file.close()


def test_a_missing_folder_is_refused_in_one_kind_of_error(tmp_path: Path) -> None:
    with pytest.raises(SpoolRefused):
        SpoolFile.create(tmp_path / "no" / "file.spool", META, max_bytes=1_000_000, is_synced=False)


# --- the folder


def test_a_lock_is_taken_once_and_again_after_its_release(path: Path) -> None:
    path.touch()
    lock = Lock.take(path)
    assert lock is not None
    assert (Lock.take(path), in_child(lambda: Lock.take(path) is None)) == (None, True)
    assert folder.is_owned(path)
    lock.release(is_done=False)
    assert not folder.is_owned(path)
    again = Lock.take(path)
    assert again is not None
    again.release(is_done=True)
    assert not path.with_suffix(".lock").exists()


def test_a_forked_child_neither_keeps_nor_frees_its_parents_lock(path: Path) -> None:
    lock = Lock.take(path)
    assert lock is not None
    assert in_child(lambda: (lock.release(is_done=False), Lock.take(path) is None)[1])
    assert Lock.take(path) is None
    lock.release(is_done=True)


def test_orphans_are_the_files_that_nobody_has_locked(tmp_path: Path) -> None:
    epochs = [new_epoch() for _ in range(3)]
    paths = [tmp_path / f"{epoch}.spool" for epoch in epochs]
    for path in paths:
        path.write_bytes(b"x")
    owned = Lock.take(paths[1])
    assert owned is not None
    unfinished = tmp_path / f"{new_epoch()}.lock"
    unfinished.touch()
    os.utime(unfinished, (0, 0))
    in_the_making = tmp_path / f"{new_epoch()}.lock"
    in_the_making.touch()
    (tmp_path / "README.spool").write_text("a person's")
    found = list(orphans(tmp_path))
    assert [UUID(path.stem) for path, _ in found] == sorted([epochs[0], epochs[2]])
    assert (unfinished.exists(), in_the_making.exists()) == (False, True)
    for _, lock in found:
        lock.release(is_done=False)
    owned.release(is_done=False)
    assert list(orphans(tmp_path / "not there")) == []


def test_a_file_is_set_aside_with_its_log_and_told_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_bytes(b"file")
    path.with_name(path.name + "-wal").write_bytes(b"log")
    folder.set_aside(path, "it is torn")
    assert sorted(part.name.removeprefix(path.stem) for part in path.parent.iterdir()) == [
        ".spool.corrupt",
        ".spool.corrupt-wal",
    ]
    (told,) = caplog.messages
    assert f"{path}.corrupt" in told
    assert "it is torn" in told


def test_two_files_of_one_epoch_are_both_kept_when_they_are_set_aside(path: Path) -> None:
    for content in (b"first", b"second", b"third"):
        path.write_bytes(content)
        folder.set_aside(path, "it is torn")
    asides = [seen for seen in list_spools(path.parent.parent, path.parent.name) if seen.state == "corrupt"]
    assert sorted(seen.path.read_bytes() for seen in asides) == [b"first", b"second", b"third"]
    assert {seen.epoch for seen in asides} == {path.stem}
    assert list(orphans(path.parent)) == []


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("redis://:secret@host/0", "redis://host"),
        ("rediss://user:pw@host:6379/", "redis://host:6379/0"),
        ("amqp://guest:guest@host//", "amqp://other@host"),
        ("amqp://host/%2F", "amqp://host/"),
        ("amqp://host/%2f", "amqp://host//"),
        ("amqp://host/a%2Db", "amqp://host/a-b"),
    ],
)
def test_a_destination_is_broker_and_queue_and_no_password(url: str, same: str) -> None:
    assert address_of(url, "q") == address_of(same, "q")
    assert "secret" not in address_of(url, "q")
    assert destination_of(address_of(url, "q")) != destination_of(address_of(url, "other"))
    assert destination_of(address_of(url, "q")) != destination_of(address_of("redis://elsewhere/0", "q"))


def test_virtual_hosts_whose_names_differ_by_a_slash_are_two_destinations() -> None:
    assert len({address_of(f"amqp://host{path}", "q") for path in ("/", "/shop", "//shop", "/shop/")}) == 4


def test_numbers_are_taken_out_of_ranges() -> None:
    ranges = Ranges([(0, 9), (20, 29), (40, 49)])
    assert ranges.remove(5, 24) == [(5, 9), (20, 24)]
    assert list(ranges) == [(0, 4), (25, 29), (40, 49)]
    assert ranges.remove(42, 43) == [(42, 43)]
    assert (list(ranges), ranges.count, ranges.first) == ([(0, 4), (25, 29), (40, 41), (44, 49)], 18, 0)
    assert ranges.remove(10, 20) == []
    assert ranges.remove(0, 100) == [(0, 4), (25, 29), (40, 41), (44, 49)]
    assert (list(ranges), ranges.count, ranges.first) == ([], 0, float("inf"))
