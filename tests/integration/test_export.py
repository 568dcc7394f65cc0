"""Exporting a person: one document with everything, of one moment, and noted."""

from __future__ import annotations

import json
import os
import tracemalloc
from typing import Any

from penstock_worker.store.connection import connect_with
from penstock_worker.store.privacy.export import export_person
from penstock_worker.store.privacy.log import Request
from tests.commands import penstock_here
from tests.erasing import NOW, PERSON, REGISTRY, Registrar, session, task
from tests.replaying import event


def export(registrar: Registrar, person: str) -> dict[str, Any]:
    """The document; of its records those types of which there is anything."""
    parts: list[str] = []
    with connect_with(registrar.settings)() as connection:
        export_person(connection, REGISTRY, Request(person, "Grace", "ticket 8"), parts.append)
    document: dict[str, Any] = json.loads("".join(parts))
    document["records"] = {name: found["rows"] for name, found in document["records"].items() if found["rows"]}
    return document


def test_everything_about_a_person_is_in_it(registrar):
    at = NOW.isoformat()
    registrar.write(
        session("s1", status="running", colour={"name": 'a "quoted" é'}),
        session("s2", "bob"),
        task("t1", "s1", source_text="hello", tokens=2**60),
        task("t2", "s2"),
        event("guardian.access_log", {"id": PERSON, "timestamp": at, "user_id": "ada", "ip_address": "::1"}),
        session("s3", total_tasks="many"),
        task("t3", "s1", sequence="many"),
        task("t4", "s2", sequence="many"),
    )

    document = export(registrar, "ada")

    (found,) = document["records"]["translation.session"]
    assert found == {column.name: None for column in REGISTRY["translation.session"].columns} | {
        "session_id": "s1",
        "user_id": "ada",
        "status": "running",
        "colour": {"name": 'a "quoted" é'},
    }
    assert [(row["task_id"], row["tokens"]) for row in document["records"]["translation.task"]] == [("t1", 2**60)]
    assert [row["ip_address"] for row in document["records"]["guardian.access_log"]] == ["::1"]
    assert len(document["records"]) == 3
    assert [letter["event"]["data"] for letter in document["dead_letters"]] == [
        {"session_id": "s3", "user_id": "ada", "total_tasks": "many"},
        {"task_id": "t3", "session_id": "s1", "sequence": "many"},
    ]
    told = {name: document[name] for name in ("person", "exported_by", "reason")}
    assert told == {"person": "ada", "exported_by": "Grace", "reason": "ticket 8"}
    assert {name: count for name, count in document["counts"].items() if count} == {
        "translation.session": 1,
        "translation.task": 1,
        "guardian.access_log": 1,
        "dead_letters": 2,
    }


def test_nothing_is_left_of_an_erased_person_but_audit_logs(registrar):
    registrar.write(
        session("s1"),
        task("t1", "s1"),
        session("s2", total_tasks="many"),
        event("guardian.access_log", {"timestamp": NOW.isoformat(), "user_id": "ada"}),
    )
    registrar.erase("ada")

    document = export(registrar, "ada")
    assert list(document["records"]) == ["guardian.access_log"]
    assert document["dead_letters"] == []


def test_a_large_one_does_not_fill_the_memory(registrar):
    registrar.query(
        "INSERT INTO guardian.memories (memory_id, user_id, type, _version, _event)"
        " SELECT i::text, 'ada', repeat('x', 1000), 1, gen_random_uuid() FROM generate_series(1, 30000) AS i"
    )
    size = 0

    def write(text: str) -> None:
        nonlocal size
        size += len(text)

    with connect_with(registrar.settings)() as connection:
        tracemalloc.start()
        export_person(connection, REGISTRY, Request("ada", "Grace", "ticket 8"), write)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert size > 30_000_000
    assert peak < size / 4


def test_the_command_writes_a_file_that_nobody_else_may_read(registrar, tmp_path):
    registrar.write(session("s1"))
    file = tmp_path / "ada.json"

    done = run(registrar, "ada", "--who", "Grace", "--why", "ticket 8", "--output", str(file))

    assert done.returncode == 0
    assert json.loads(file.read_text())["counts"]["translation.session"] == 1
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["ada.json"]
    entries = registrar.query(
        "SELECT action, who, why, report -> 'counts' -> 'translation.session', ended_at IS NOT NULL FROM penstock.privacy_log"
    )
    assert entries == [("export", "Grace", "ticket 8", 1, True)]


def test_a_pipe_or_device_is_written_to_and_stays_one(registrar, tmp_path):
    registrar.write(session("s1"))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert run(registrar, "ada", "--who", "Grace", "--why", "ticket 8", "--output", str(pipe)).returncode == 0

        assert pipe.is_fifo()
        assert json.loads(os.read(reader, 60_000))["counts"]["translation.session"] == 1
    finally:
        os.close(reader)


def test_the_command_wants_to_know_who_and_why(registrar):
    assert run(registrar, "ada", "--who", "Grace").returncode == 2
    assert registrar.query("SELECT 1 FROM penstock.privacy_log") == []


def run(registrar: Registrar, *words: str) -> Any:
    return penstock_here("export-person", *words, PENSTOCK_DATABASE_URL=registrar.url, PENSTOCK_RECORDS="tests.erasing")
