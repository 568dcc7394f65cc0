"""Events of erased people are refused, in whatever form they come."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from penstock_worker.errors import DatabaseAway
from penstock_worker.ingest.message import RawMessage
from penstock_worker.ingest.tables import Tables
from penstock_worker.store.legal_holds import place_hold
from penstock_worker.store.privacy.fences import set_fences
from tests.erasing import NOW, PERSON, REGISTRY, Registrar, session, task
from tests.replaying import VERSION, event

ALLOWANCE_US = 300_000_000
#: Newer than any fence that a test sets now, and not too far ahead.
NEW_LIFE_US = 1_000_000


@pytest.fixture(params=["blocks", "one by one"])
def reads(request: pytest.FixtureRequest, registrar: Registrar) -> bool:
    """Both ways through the worker: as columns, and event by event."""
    if request.param == "one by one":
        registrar.writer.blocks.read = lambda messages: ([], [])  # type: ignore[method-assign]
    return request.param == "blocks"


def fence(registrar: Registrar, person: str, allowance_us: int = ALLOWANCE_US) -> int:
    return set_fences(registrar.connection, person, allowance_us)


def test_what_is_said_of_an_erased_person_is_refused(registrar, reads):
    version = fence(registrar, "ada")

    result = registrar.writer.write([registrar.message(session("s1"), session("s2", "bob"), session("s3"))])

    assert (result.outcomes, result.in_blocks) == ({"fenced": 2, "stored": 1}, 3 if reads else 0)
    assert registrar.outcomes() == {"fenced": 2, "stored": 1}
    rows = registrar.query("SELECT session_id, user_id, _version, _deleted_version FROM translation.sessions ORDER BY 1")
    assert rows == [("s1", None, None, version), ("s2", "bob", VERSION, None), ("s3", None, None, version)]


@pytest.mark.parametrize(
    ("person", "name", "others"),
    [
        (PERSON.upper(), "lab.visit", {"person": str(uuid4())}),
        ("42", "lab.score", {"player": 43}),
        ("a\\N\tb\n", "guardian.memory", {"user_id": "a\\N"}),
    ],
)
def test_a_person_is_known_whatever_kind_the_column_is_of(registrar, reads, person, name, others):
    fence(registrar, person)
    keys = {"lab.visit": {"visit_id": PERSON}, "lab.score": {"game": "go", "number": 1}, "guardian.memory": {"memory_id": "m"}}
    own = {"lab.visit": {"person": PERSON}, "lab.score": {"player": 42}, "guardian.memory": {"user_id": person}}
    key = keys[name]

    assert registrar.write(event(name, key | own[name])) == {"fenced": 1}
    other = {column: str(uuid4()) if column == "visit_id" else f"{value}1" for column, value in key.items()}
    if name == "lab.score":
        other["number"] = 2
    assert registrar.write(event(name, other | others)) == {"stored": 1}
    assert len(registrar.left(name)) == 1


def test_a_person_whose_id_looks_like_another_one_escaped_is_not_remembered_as_them(registrar, reads):
    fence(registrar, "a\\b")
    said = [event("guardian.memory", {"memory_id": str(len(user)), "user_id": user}) for user in ("a\\\\b", "a\\b")]

    assert [registrar.write(one) for one in said] == [{"stored": 1}, {"fenced": 1}]


def test_seven_is_not_the_person_whose_id_is_the_text_007(registrar):
    fence(registrar, "007")

    assert registrar.write(event("lab.score", {"game": "go", "number": 1, "player": 7})) == {"stored": 1}


def test_appended_records_are_not_written(registrar, reads):
    fence(registrar, "ada")
    clicks = [event("lab.click", {"at": NOW.isoformat(), "user": user}) for user in ("ada", "bob")]
    access = event("guardian.access_log", {"timestamp": NOW.isoformat(), "user_id": "ada", "access_type": "read"})

    assert registrar.write(*clicks, access) == {"fenced": 1, "stored": 2}
    assert registrar.query('SELECT "user" FROM lab.clicks') == [("bob",)]
    assert registrar.query("SELECT user_id FROM guardian.access_logs") == [("ada",)]


def test_what_is_newer_than_the_fence_is_a_new_life(registrar, reads):
    version = fence(registrar, "ada", -NEW_LIFE_US)

    old, new = session("s1"), session("s2", version=version + 1)
    assert registrar.write(old, new, event("guardian.memory", {"memory_id": "m", "user_id": "ada"}, version)) == {
        "fenced": 2,
        "stored": 1,
    }
    # Where all columns are `newest` even the same key lives again.
    assert registrar.write(event("guardian.memory", {"memory_id": "m", "user_id": "ada", "type": "x"}, version + 1)) == {
        "stored": 1
    }
    assert [key for key, _ in registrar.left("translation.session")] == ["s2"]
    assert registrar.left("guardian.memory") == [("m", {"type": "x", "user_id": "ada"})]


def test_children_fall_through_the_tombstone(registrar, reads):
    fence(registrar, "ada")
    post = str(uuid4())
    events = [
        event("lab.thread", {"thread_id": 1, "owner": "ada"}),
        event("lab.post", {"post_id": post, "thread_id": 1, "text": "secret"}),
        event("lab.reply", {"reply_id": "r1", "post_id": post, "text": "secret"}),
        event("lab.thread", {"thread_id": 2, "owner": "bob"}),
        event("lab.post", {"post_id": str(uuid4()), "thread_id": 2, "author": "bob"}),
    ]

    assert registrar.write(*events) == {"fenced": 3, "stored": 2}
    assert registrar.write(event("lab.reply", {"reply_id": "r2", "post_id": post, "text": "secret"})) == {"fenced": 1}
    assert registrar.left("lab.reply") == []
    assert [content for _, content in registrar.left("lab.post")] == [{"thread_id": 2, "author": "bob"}]


def test_a_refused_child_makes_no_placeholder(registrar, reads):
    fence(registrar, "ada")

    assert registrar.write(event("lab.post", {"post_id": str(uuid4()), "thread_id": 7, "author": "ada"})) == {"fenced": 1}
    assert registrar.query("SELECT 1 FROM lab.threads") == []


def test_a_refused_event_counts_for_the_age_of_its_row(registrar, reads):
    """By its lowest version a child falls with its parent, whether or not it was written before the erasure."""
    version, post = fence(registrar, "ada", -NEW_LIFE_US), {"post_id": str(uuid4()), "thread_id": 7, "author": "ada"}
    old, new = event("lab.post", post), event("lab.post", post, version + 1)

    assert registrar.write(old) == {"fenced": 1}
    assert registrar.write(new) == {"stored": 1}
    assert registrar.query("SELECT _version, _oldest FROM lab.posts") == [(version + 1, VERSION)]


def test_children_that_came_first_are_emptied_by_the_next_pass(registrar, reads):
    post = str(uuid4())
    registrar.write(
        event("lab.reply", {"reply_id": "r1", "post_id": post, "text": "secret"}),
        event("lab.post", {"post_id": post, "thread_id": 1, "text": "secret"}),
    )
    fence(registrar, "ada")

    assert registrar.write(event("lab.thread", {"thread_id": 1, "owner": "ada"})) == {"fenced": 1}
    assert registrar.run("erasures").counts == {"lab.post": 1, "lab.reply": 1}
    assert registrar.left("lab.post") == registrar.left("lab.reply") == []
    assert registrar.run("erasures").counts == {}


def test_a_partial_record_without_a_name_goes_with_its_row(registrar, reads):
    registrar.write(session("s1", None, status="running"))
    fence(registrar, "ada")

    assert registrar.write(session("s1"), session("s2", None, status="running")) == {"fenced": 1, "stored": 1}
    assert registrar.write(session("s1", None, status="completed")) == {"superseded": 1}
    assert [key for key, _ in registrar.left("translation.session")] == ["s2"]


def test_a_row_that_names_somebody_else_by_now_is_not_written_over(registrar, reads):
    registrar.write(session("s1", "bob", VERSION + 1))
    fence(registrar, "ada")

    assert registrar.write(session("s1", "ada")) == {"fenced": 1}
    assert registrar.left("translation.session") == [("s1", {"user_id": "bob"})]
    assert registrar.write(session("s2", "ada"), session("s2", "bob", VERSION + 1)) == {"fenced": 1, "stored": 1}
    assert [key for key, _ in registrar.left("translation.session")] == ["s1", "s2"]


def test_a_row_on_hold_is_not_written_over(registrar, reads):
    registrar.write(session("s1", total_tasks=3))
    place_hold(registrar.connection, REGISTRY, type="translation.session", key=["s1"], reason="court", placed_by="Lea")
    fence(registrar, "ada")

    assert registrar.write(session("s1", version=VERSION + 1, total_tasks=4)) == {"fenced": 1}
    assert registrar.left("translation.session") == [("s1", {"user_id": "ada", "total_tasks": 3})]


def test_a_later_delete_does_not_make_an_ordinary_tombstone_of_it(registrar):
    version = fence(registrar, "ada", -NEW_LIFE_US)
    registrar.write(session("s1"))

    registrar.write(event("translation.session", {"session_id": "s1"}, version + 1, "delete"))
    assert registrar.query("SELECT _deleted_version, _deleted_event::text FROM translation.sessions") == [
        (version + 1, "ffffffff-ffff-ffff-ffff-ffffffffffff")
    ]


def test_what_cannot_be_read_leaves_no_letter(registrar):
    fence(registrar, "ada")
    registrar.write(session("s1"))
    invalid = [session("s2", total_tasks="many"), task("t1", "s1", sequence="many"), session("s1", None, total_tasks="many")]

    assert registrar.write(*invalid, session("s3", "bob", total_tasks="many")) == {"fenced": 3, "dead": 1}
    assert registrar.query("SELECT count(*) FROM penstock.dead_letters") == [(1,)]


def test_what_no_column_holds_stops_neither_a_batch_nor_an_erasure(registrar):
    wrong = [
        session("s\0", "bob"),
        task("t1", "s\0"),
        session("s1", "bo\0b"),
        session("s2", "bob", -(10**30)),
        session("s3", "bob", 10**300),
    ]
    assert registrar.write(*wrong) == {"dead": 5}
    fence(registrar, "ada")

    assert registrar.write(*wrong, session("s4", "bob")) == {"dead": 5, "stored": 1}
    assert registrar.erase("ada").is_complete


def test_what_cannot_be_written_leaves_no_letter(registrar):
    """Its table is not there, or PostgreSQL refuses what names nobody itself."""
    fence(registrar, "ada")
    registrar.write(session("s1"))
    registrar.query("ALTER TABLE guardian.memories RENAME TO memories_elsewhere")
    registrar.query("ALTER TABLE translation.sessions ADD CONSTRAINT few CHECK (total_tasks < 5)")
    try:
        memories = [event("guardian.memory", {"memory_id": user, "user_id": user}) for user in ("ada", "bob")]
        writer = registrar.open_writer(REGISTRY)
        assert write(writer, registrar, *memories, session("s1", None, total_tasks=7)) == {"fenced": 2, "held": 1}
        # One that cannot be read either, of which nobody knows whose row it would be.
        assert write(writer, registrar, event("guardian.memory", {"memory_id": "m", "strength": "x"})) == {"dead": 1}
    finally:
        registrar.query("ALTER TABLE guardian.memories_elsewhere RENAME TO memories")
        registrar.query("ALTER TABLE translation.sessions DROP CONSTRAINT few")
    assert registrar.outcomes() == {"fenced": 3, "held": 1, "dead": 1}
    assert registrar.query("SELECT count(*) FROM penstock.dead_letters") == [(2,)]


def test_a_whole_message_that_cannot_be_read_keeps_other_peoples_events_only(registrar):
    fence(registrar, "ada")
    registrar.write(session("s1"))
    told = [session("s2"), task("t1", "s1", source_text="secret"), session("s3", "bob")]

    assert registrar.writer.write([registrar.message(*told, v=2)]).outcomes == {"held": 3}
    ((payload,),) = registrar.query("SELECT payload FROM penstock.dead_letters")
    events = json.loads(payload)["events"]
    assert [one["data"] for one in events] == [{"session_id": "s2"}, {"task_id": "t1"}, {"session_id": "s3", "user_id": "bob"}]


def test_careful_tries_refuse_as_well(registrar):
    """A culprit beside them, which only the database finds."""
    fence(registrar, "ada")
    registrar.query("ALTER TABLE translation.sessions ADD CONSTRAINT not_s0 CHECK (session_id <> 's0')")

    outcomes = registrar.write(session("s1"), session("s2", "bob"), task("t1", "s1"), session("s0", "bob"))
    registrar.query("ALTER TABLE translation.sessions DROP CONSTRAINT not_s0")
    assert outcomes == {"fenced": 2, "stored": 1, "held": 1}
    assert [key for key, _ in registrar.left("translation.session")] == ["s2"]
    assert registrar.left("translation.task") == []


def test_a_batch_that_is_tried_again_is_refused_as_before(registrar, reads, monkeypatch):
    fence(registrar, "ada")
    tables, tries = registrar.writer.tables, []

    def write(*arguments: Any, **options: Any) -> None:
        Tables.write(tables, *arguments, **options)
        tries.append(1)
        if len(tries) == 1:
            raise psycopg.errors.SerializationFailure

    monkeypatch.setattr(tables, "write", write)
    assert registrar.write(session("s1"), task("t1", "s1"), session("s2", "bob")) == {"fenced": 2, "stored": 1}
    assert registrar.query("SELECT task_id, _deleted_event IS NOT NULL FROM translation.tasks") == [("t1", True)]
    assert len(tries) == 2


def test_a_cloudevent_is_refused(registrar, reads):
    fence(registrar, "ada")
    said = {"specversion": "1.0", "id": "1", "source": "shop", "type": "guardian.memory", "time": "2023-11-14T22:13:20Z"}
    body = json.dumps([{**said, "data": {"memory_id": "m", "user_id": "ada"}}]).encode()

    message = RawMessage(body, "application/cloudevents-batch+json", {})
    assert registrar.writer.write([message]).outcomes == {"fenced": 1}
    assert registrar.left("guardian.memory") == []


def test_a_second_process_learns_of_a_fence_at_once(registrar):
    other = registrar.open_writer(REGISTRY)
    write(other, registrar, session("s1", "bob"))
    fence(registrar, "ada")

    assert write(other, registrar, session("s2")) == {"fenced": 1}
    fence(registrar, "bob")
    assert write(other, registrar, session("s3", "bob"), session("s4")) == {"fenced": 2}


def test_a_worker_waits_where_the_database_is_not_migrated_yet(registrar):
    """It could not know whom to refuse; no event is to blame."""
    writer = registrar.open_writer(REGISTRY)
    ((source,),) = registrar.query("SELECT pg_get_functiondef('penstock.begin_batch'::regproc)")
    registrar.query("DROP FUNCTION penstock.begin_batch()")
    try:
        with pytest.raises(DatabaseAway, match="begin_batch"):
            writer.write([registrar.message(session("s1"))])
    finally:
        registrar.query(source)
    assert write(writer, registrar, session("s1")) == {"stored": 1}


def write(writer: Any, registrar: Registrar, *events: bytes) -> dict[str, int]:
    outcomes: dict[str, int] = writer.write([registrar.message(*events)]).outcomes
    return outcomes
