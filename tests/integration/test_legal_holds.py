"""Which rows a legal hold keeps: by key, type and person, through parents; and that none is missed."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from penstock_schemas.registry import load_registry
from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import Settings
from penstock_worker.store.connection import Connection, connect_with
from penstock_worker.store.legal_holds import keep_holds, list_holds, on_hold, place_hold, release_hold
from tests.lab import Lab
from tests.records import REGISTRY as LAB

REGISTRY = load_registry()

ROWS = """
    INSERT INTO translation.sessions (session_id, user_id, _version) VALUES ('s1', 'ann', 1), ('s2', 'bob', 1), ('s3', NULL, 1);
    INSERT INTO translation.tasks (task_id, session_id, _version) VALUES ('t1', 's1', 1), ('t2', 's2', 1), ('t3', 's3', 1);
    INSERT INTO guardian.memories (memory_id, user_id, _version) VALUES ('m1', 'ann', 1), ('m2', 'bob', 1);
"""
NOTHING: list[str] = []


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    with connect_with(Settings(database_url=database_url))() as connection:
        connection.execute(ROWS)
        yield connection


def held(connection: Connection, type: str) -> list[str]:
    """The keys of the rows that are on hold; that each row is either on hold or not is checked on the way."""
    record = REGISTRY[type]
    query = sql.SQL("SELECT {}::text, {} FROM {} r ORDER BY 1").format(
        sql.Identifier(record.key[0]), on_hold(REGISTRY, record), sql.Identifier(*record.declaration.table.split("."))
    )
    rows = connection.execute(query).fetchall()
    assert {is_held for _, is_held in rows} <= {True, False}
    return [str(key) for key, is_held in rows if is_held]


def place(connection: Connection, **what: object) -> int:
    return place_hold(connection, REGISTRY, reason="lawsuit 7", placed_by="eve", **what).id


def test_without_holds_nothing_is_on_hold(connection: Connection):
    assert [held(connection, name) for name in ("translation.session", "translation.task", "guardian.memory")] == [[], [], []]


def test_a_row_is_held_by_its_key_and_its_children_with_it(connection: Connection):
    place(connection, type="translation.session", key=["s2"])

    assert held(connection, "translation.session") == ["s2"]
    assert held(connection, "translation.task") == ["t2"]
    assert held(connection, "guardian.memory") == NOTHING


def test_a_child_is_held_alone(connection: Connection):
    place(connection, type="translation.task", key=["t1"])

    assert held(connection, "translation.session") == NOTHING
    assert held(connection, "translation.task") == ["t1"]


def test_a_whole_type_is_held(connection: Connection):
    place(connection, type="translation.session")

    assert held(connection, "translation.session") == ["s1", "s2", "s3"]
    assert held(connection, "translation.task") == ["t1", "t2", "t3"]
    assert held(connection, "guardian.memory") == NOTHING


def test_a_person_is_held_in_every_type(connection: Connection):
    place(connection, subject="ann")

    assert held(connection, "translation.session") == ["s1"]
    assert held(connection, "translation.task") == ["t1"]
    assert held(connection, "guardian.memory") == ["m1"]


def test_a_person_is_held_in_one_type(connection: Connection):
    place(connection, type="guardian.memory", subject="ann")

    assert held(connection, "translation.session") == NOTHING
    assert held(connection, "guardian.memory") == ["m1"]


def test_a_released_hold_keeps_nothing_and_is_remembered(connection: Connection):
    number = place(connection, subject="ann")
    release_hold(connection, number, "adam")

    assert held(connection, "translation.task") == NOTHING
    assert list_holds(connection) == []
    (hold,) = list_holds(connection, with_released=True)
    assert (hold.subject, hold.reason, hold.placed_by, hold.released_by) == ("ann", "lawsuit 7", "eve", "adam")
    with pytest.raises(ConfigurationError, match=f"no hold {number} is in force"):
        release_hold(connection, number, "adam")


def test_a_key_is_written_as_the_column_has_it(empty_database_url: str):
    lab = Lab(empty_database_url, connections=1)
    try:
        lab.execute("INSERT INTO lab.pairs (tenant, number, _version) VALUES ('a', 7, 1), ('a', 8, 1)")
        at = "2026-11-01T12:00:00+02:00"
        name = "00000000-0000-0000-0000-00000000000A"
        lab.execute(f"INSERT INTO lab.readings (id, at, _version) VALUES ('{name}', '{at}', 1)")
        with connect_with(Settings(database_url=empty_database_url))() as connection:
            for type, key in (("lab.pair", ["a", "007"]), ("lab.reading", [name, at])):
                place_hold(connection, LAB, type=type, key=key, reason="r", placed_by="eve")
            assert [hold.key for hold in list_holds(connection)] == [["a", "7"], [name.lower(), "2026-11-01 10:00:00+00"]]
            for type, keys in (("lab.pair", [("7",)]), ("lab.reading", [(name.lower(),)])):
                query = sql.SQL("SELECT {}::text FROM {} r WHERE {}").format(
                    sql.Identifier("number" if type == "lab.pair" else "id"),
                    sql.Identifier(*LAB[type].declaration.table.split(".")),
                    on_hold(LAB, LAB[type]),
                )
                assert connection.execute(query).fetchall() == keys
    finally:
        lab.close()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({}, "say what to hold"),
        ({"key": ["s1"], "subject": "ann"}, "say --type with --key"),
        ({"type": "no.such"}, "there is no type 'no.such'"),
        ({"type": ""}, "there is no type ''"),
        ({"subject": ""}, "--subject is empty"),
        ({"type": "translation.session", "key": ["s1", "s2"]}, r"has the key \(session_id\): give --key 1 times"),
        ({"type": "translation.session", "key": ["s1"], "subject": "ann"}, "leave out --subject"),
        ({"type": "translation.task", "subject": "ann"}, "names no person"),
        ({"type": "guardian.metric", "key": ["x", "y"]}, "that is no key of guardian.metric: invalid input syntax"),
    ],
)
def test_what_cannot_be_held_is_said_in_one_line(connection: Connection, what: dict[str, object], message: str):
    with pytest.raises(ConfigurationError, match=message):
        place(connection, **what)
    assert list_holds(connection, with_released=True) == []


def test_a_hold_on_nothing_cannot_be_written_by_hand_either(connection: Connection):
    with pytest.raises(psycopg.errors.CheckViolation, match="legal_holds_what"):
        connection.execute("INSERT INTO penstock.legal_holds (reason, placed_by) VALUES ('r', 'eve')")


def test_a_hold_is_placed_only_when_deletions_that_do_not_know_of_it_are_over(connection: Connection, database_url: str):
    placed = threading.Event()

    def place_meanwhile() -> None:
        with connect_with(Settings(database_url=database_url))() as other:
            place(other, subject="ann")
        placed.set()

    thread = threading.Thread(target=place_meanwhile)
    with connection.transaction():
        keep_holds(connection)
        thread.start()
        with connect_with(Settings(database_url=database_url))() as observer:
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'penstock.legal_holds'::regclass"
            while observer.execute(waiting).fetchone() != (1,):
                assert thread.is_alive()
        assert not placed.is_set()
        assert held(connection, "guardian.memory") == NOTHING
    assert placed.wait(60)
    thread.join(60)
    assert held(connection, "guardian.memory") == ["m1"]
