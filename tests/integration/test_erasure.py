"""Erasing a person: what goes, what stays, in every order, with batches between, over restores, and what is told of it."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from itertools import permutations
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from penstock_schemas.registry import load_registry
from penstock_worker.errors import ConfigurationError
from penstock_worker.ingest import failpoints
from penstock_worker.store.connection import connect_with
from penstock_worker.store.legal_holds import list_holds, place_hold, release_hold
from penstock_worker.store.privacy import barrier, erase
from penstock_worker.store.privacy.fences import set_fences
from penstock_worker.store.privacy.log import Request
from penstock_worker.store.privacy.restore import carry_fences, reapply
from penstock_worker.store.privacy.tombstones import Eraser
from tests.commands import penstock_here
from tests.erasing import NOW, PERSON, REGISTRY, Registrar, session, task
from tests.replaying import VERSION, event
from tests.servers.databases import PostgresServer

#: Longer than it takes to run by, where something must wait; nothing fails when it is too short.
A_MOMENT_S = 0.5
LONG_S = 60


def before_and_after(registrar: Registrar, person: str) -> dict[str, tuple[int, int]]:
    """Of every table in which there was anything."""
    proof = registrar.erase(person)
    return {table.table: (table.before, table.after) for table in proof.tables if table.before or table.after}


def test_everything_about_a_person_goes_but_audit_logs(registrar):
    post, at = str(uuid4()), NOW.isoformat()
    registrar.write(
        session("s1", colour="red"),
        session("s2", "bob"),
        task("t1", "s1", source_text="secret"),
        task("t2", "s2", source_text="kept"),
        event("lab.thread", {"thread_id": 1, "owner": "bob"}),
        event("lab.post", {"post_id": post, "thread_id": 1, "author": "ada", "text": "secret"}),
        event("lab.reply", {"reply_id": "r1", "post_id": post, "text": "secret"}),
        event("lab.click", {"at": at, "user": "ada"}),
        event("lab.click", {"at": at, "user": "bob"}),
        event("guardian.access_log", {"timestamp": at, "user_id": "ada"}),
    )
    registrar.query(
        "INSERT INTO penstock.recoveries (type, key, state, last_activity, checked_at)"
        " SELECT type, key, 'running', now(), now()"
        " FROM (VALUES ('translation.session', '[\"s1\"]'::jsonb), ('translation.task', '[\"t2\"]')) AS found (type, key)"
    )

    assert before_and_after(registrar, "ada") == {
        "guardian.access_logs": (1, 1),
        "lab.clicks": (1, 0),
        "lab.posts": (1, 0),
        "lab.replies": (1, 0),
        "translation.sessions": (1, 0),
        "translation.tasks": (1, 0),
        "penstock.recoveries": (1, 0),
    }
    assert registrar.left("translation.session") == [("s2", {"user_id": "bob"})]
    assert [key for key, _ in registrar.left("translation.task")] == ["t2"]
    assert registrar.left("lab.thread") == [("1", {"owner": "bob"})]
    assert registrar.left("lab.post") == registrar.left("lab.reply") == []
    assert registrar.query('SELECT "user" FROM lab.clicks') == [("bob",)]
    assert registrar.query("SELECT type FROM penstock.recoveries") == [("translation.task",)]


def test_it_is_noted_without_the_name(registrar):
    registrar.write(session("s1", "ada@example.org"))
    registrar.erase("ada@example.org")
    registrar.erase("ada@example.org")

    entries = registrar.query(
        "SELECT action, who, why, report::text, ended_at >= started_at FROM penstock.privacy_log ORDER BY id"
    )
    assert [entry[:3] for entry in entries] == [("erase", "Grace", "ticket 7")] * 2
    assert all(json.loads(report)["is_complete"] and ended for *_, report, ended in entries)
    assert registrar.query("SELECT count(DISTINCT subject) FROM penstock.privacy_log") == [(1,)]
    dump = registrar.query(
        "SELECT t::text FROM (SELECT l::text FROM penstock.privacy_log l UNION SELECT f::text FROM penstock.fences f) t"
    )
    assert "ada@" not in str(dump)


def test_twice_is_once(registrar):
    registrar.write(session("s1"), task("t1", "s1"), session("s2", None), session("s2", total_tasks="many"))
    registrar.erase("ada")
    tables = ["translation.sessions", "translation.tasks", "penstock.dead_letters", "penstock.ledger"]
    rows = {name: registrar.query(f"SELECT to_jsonb(t) - '_deleted_version' - '_stored_at' FROM {name} t") for name in tables}

    assert before_and_after(registrar, "ada") == {}
    assert rows == {
        name: registrar.query(f"SELECT to_jsonb(t) - '_deleted_version' - '_stored_at' FROM {name} t") for name in tables
    }


def test_people_of_other_kinds_of_ids(registrar):
    registrar.write(
        event("lab.visit", {"visit_id": str(uuid4()), "person": PERSON, "place": "home"}),
        event("lab.score", {"game": "go", "number": 1, "player": 42}),
        event("lab.score", {"game": "go", "number": 2, "player": 43}),
    )

    assert before_and_after(registrar, PERSON.upper()) == {"lab.visits": (1, 0)}
    assert before_and_after(registrar, "42") == {"lab.scores": (1, 0)}
    assert registrar.left("lab.visit") == []
    assert [key for *key, _ in registrar.left("lab.score")] == [["go", "2"]]


def test_what_is_newer_than_the_fence_survives(registrar):
    """As when an erasure is done again after a restore: what is stored since is another life."""
    version = set_fences(registrar.connection, "ada", -10_000_000)
    fences = registrar.query("SELECT subject, version, generation FROM penstock.fences")
    old = [
        ("guardian.memory", {"memory_id": "m1", "type": "old", "strength": 1}),
        ("translation.session", {"session_id": "s1"}),
    ]
    new = [("guardian.memory", {"memory_id": "m1", "type": "new"}), ("translation.session", {"session_id": "s2"})]
    registrar.query("DELETE FROM penstock.fences")
    registrar.write(*(event(name, data | {"user_id": "ada"}) for name, data in old))
    registrar.write(*(event(name, data | {"user_id": "ada"}, version + 1) for name, data in new))
    registrar.write(session("s3"), event("translation.session", {"session_id": "s3", "status": "running"}, version + 1))

    with connect_with(registrar.settings)() as connection:
        connection.execute("INSERT INTO penstock.fences (subject, version, generation) VALUES (%s, %s, %s)", fences[0])
        erase.erase_fenced(Eraser(connection, REGISTRY), registrar.settings)
    assert registrar.left("guardian.memory") == [("m1", {"type": "new", "user_id": "ada"})]
    assert [key for key, _ in registrar.left("translation.session")] == ["s2"]


def test_children_of_an_old_life_go_although_their_parent_has_begun_a_new_one(registrar):
    """As when an erasure was stopped behind its fence, and is finished later."""
    old, new = str(uuid4()), str(uuid4())
    registrar.write(
        event("lab.thread", {"thread_id": 1, "owner": "ada", "title": "old"}),
        event("lab.post", {"post_id": old, "thread_id": 1, "text": "secret"}),
        event("lab.reply", {"reply_id": "r1", "post_id": old, "text": "secret"}),
    )
    version = set_fences(registrar.connection, "ada", -10_000_000)
    registrar.write(
        event("lab.thread", {"thread_id": 1, "owner": "ada", "title": "new"}, version + 1),
        event("lab.post", {"post_id": new, "thread_id": 1, "text": "new"}, version + 1),
    )

    with connect_with(registrar.settings)() as connection:
        erase.erase_fenced(Eraser(connection, REGISTRY), registrar.settings)
    assert registrar.left("lab.thread") == [("1", {"owner": "ada", "title": "new"})]
    assert [key for key, content in registrar.left("lab.post") if "text" in content] == [new]
    assert [key for key, content in registrar.left("lab.reply") if "text" in content] == []


def now_us(registrar: Registrar) -> int:
    ((now,),) = registrar.query("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
    return int(now)


# -- orders ------------------------------------------------------------------------------------------------------------------


def all_orders(registrar: Registrar, makers: dict[str, Any]) -> set[str]:
    """
    Let events and an erasure happen in every order there is, each with a person and keys of its own.

    Returns:
        What is left afterwards, once for each different end; a single one where no order matters.
    """
    orders = list(permutations([*makers, "erasure"]))
    for steps in zip(*orders, strict=True):
        for number, step in enumerate(steps):
            if step == "erasure":
                set_fences(registrar.connection, f"p{number}", 300_000_000)
            else:
                registrar.write(makers[step](f"{number:03d}"))
        if "erasure" in steps:
            with connect_with(registrar.settings)() as connection:
                erase.erase_fenced(Eraser(connection, REGISTRY), registrar.settings)
    registrar.run("erasures")
    for _ in range(3):
        registrar.run("retention")
    ends: dict[int, list[str]] = {number: [] for number in range(len(orders))}
    for name in REGISTRY:
        for *keys, content in registrar.left(name):
            number = int(str(keys[0])[1:4])
            # Whose child it was is no content; retention leaves it in what it empties.
            said = sorted(content.keys() - {"session_id", "thread_id", "post_id"})
            ends[number] += [f"{name} {said}"] if said else []
    return {"; ".join(sorted(end)) for end in ends.values()}


def test_every_order_of_session_task_and_erasure_ends_the_same(registrar):
    makers = {
        "session": lambda n: session(f"s{n}", f"p{int(n)}", VERSION, status="running", metadata={"a": 1}),
        "task": lambda n: task(f"t{n}", f"s{n}", VERSION + 1, source_text="secret"),
        "partial": lambda n: session(f"s{n}", None, VERSION + 2, status="completed"),
    }

    assert all_orders(registrar, makers) == {""}


def test_every_order_of_session_task_delete_and_erasure_ends_the_same(registrar):
    makers = {
        "session": lambda n: session(f"s{n}", f"p{int(n)}", VERSION, status="running"),
        "task": lambda n: task(f"t{n}", f"s{n}", VERSION + 1, source_text="secret"),
        "delete": lambda n: event("translation.session", {"session_id": f"s{n}"}, VERSION + 2, "delete"),
    }

    assert all_orders(registrar, makers) == {""}


def test_every_order_of_three_generations_and_erasure_ends_the_same(registrar):
    """All columns `newest`, so that a row could live again."""
    post = "00000000-0000-4000-8000-000000000{}"
    makers = {
        "thread": lambda n: event("lab.thread", {"thread_id": int(n), "owner": f"p{int(n)}", "title": "secret"}),
        "post": lambda n: event("lab.post", {"post_id": post.format(n), "thread_id": int(n), "text": "secret"}, VERSION + 1),
        "reply": lambda n: event("lab.reply", {"reply_id": f"r{n}", "post_id": post.format(n), "text": "secret"}, VERSION + 2),
    }

    assert all_orders(registrar, makers) == {""}


# -- batches between ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["after_copy", "before_commit"])
def test_a_batch_that_began_before_leaves_nothing_behind(registrar, tmp_path, place):
    """It is being written, and does not know the fence: the erasure looks at the tables when it is over."""
    registrar.write(session("s0", "bob"))  # the first batch of a producer notes it, and others of its wait for that
    strike = tmp_path / "strike"
    strike.touch()
    failpoints.configure(f"{place}=wait:{strike}")
    batch = threading.Thread(target=registrar.write, args=(session("s1"), task("t1", "s1", source_text="secret")))
    erasure = threading.Thread(target=registrar.erase, args=("ada",))
    try:
        batch.start()
        wait_for(lambda: not strike.exists())
        erasure.start()
        wait_for(lambda: registrar.query("SELECT 1 FROM penstock.fences"))
        erasure.join(A_MOMENT_S)
        assert erasure.is_alive()
        # Nobody else is kept waiting.
        with connect_with(registrar.settings)() as connection:
            connection.execute("SET statement_timeout = '30s'")
            other = registrar.open_writer(REGISTRY)
            failpoints.configure("")
            assert other.write([registrar.message(session("s2"), session("s3", "bob"))]).outcomes == {"fenced": 1, "stored": 1}
    finally:
        failpoints.configure("")
        strike.with_name("strike.go").touch()
        batch.join(LONG_S)
        erasure.join(LONG_S)
    assert not erasure.is_alive()
    assert [key for key, _ in registrar.left("translation.session")] == ["s0", "s3"]
    assert registrar.left("translation.task") == []


def test_a_child_whose_batch_did_not_see_the_tombstone_is_emptied(registrar, tmp_path):
    """The pass waits for it, although the erasure itself is long over."""
    registrar.erase("ada")
    registrar.write(session("s1", None))
    strike = tmp_path / "strike"
    strike.touch()
    failpoints.configure(f"before_commit=wait:{strike}")
    child = threading.Thread(target=registrar.write, args=(task("t1", "s1", source_text="secret"),))
    done: list[Any] = []
    sweep = threading.Thread(target=lambda: done.append(registrar.run("erasures")))
    try:
        child.start()
        wait_for(lambda: not strike.exists())
        failpoints.configure("")
        other = registrar.open_writer(REGISTRY)
        assert other.write([registrar.message(session("s1"))]).outcomes == {"fenced": 1}
        sweep.start()
        sweep.join(A_MOMENT_S)
    finally:
        failpoints.configure("")
        strike.with_name("strike.go").touch()
        child.join(LONG_S)
        sweep.join(LONG_S)
    assert [run.counts for run in done] == [{"translation.task": 1}]
    assert registrar.left("translation.task") == []


def test_a_batch_that_does_not_end_is_one_clear_line(registrar):
    with psycopg.connect(registrar.url) as stuck, connect_with(registrar.settings)() as connection:
        stuck.execute("SELECT penstock.begin_batch()")
        with pytest.raises(ConfigurationError, match="run the command again"):
            barrier.wait_for_batches(connection, 0)


def test_a_row_that_somebody_has_locked_is_tried_again(registrar):
    registrar.write(session("s1"))
    with psycopg.connect(registrar.url) as other, connect_with(registrar.settings)() as connection:
        other.execute("SELECT FROM translation.sessions FOR UPDATE")
        set_fences(connection, "ada", 300_000_000)
        pauses: list[float] = []

        def let_go(pause: float) -> None:
            pauses.append(pause)
            other.rollback()

        assert erase.erase_fenced(Eraser(connection, REGISTRY, sleep=let_go), registrar.settings) == {"translation.session": 1}
    assert len(pauses) == 1


def test_an_erasure_that_was_stopped_is_finished_by_beat(registrar):
    registrar.write(session("s1"), task("t1", "s1"))
    set_fences(registrar.connection, "ada", 300_000_000)
    registrar.query(
        "INSERT INTO penstock.privacy_log (action, subject, who, why, started_at)"
        " VALUES ('erase', '', 'Grace', 'ticket 7', now() - interval '1 hour')"
    )

    assert registrar.run("erasures").counts == {"translation.session": 1, "translation.task": 1, "finished": 1}
    assert registrar.left("translation.session") == []
    assert registrar.run("erasures").counts == {}


def test_an_erasure_that_was_stopped_before_its_fence_is_not_told_as_finished(registrar, monkeypatch):
    """Nobody could know by then whom it was about."""
    registrar.write(session("s1"))
    with monkeypatch.context() as patched:
        patched.setattr(erase, "set_fences", stop)
        with pytest.raises(KeyboardInterrupt):
            registrar.erase("ada")

    assert registrar.query("SELECT 1 FROM penstock.privacy_log") == []
    registrar.erase("ada")
    assert registrar.left("translation.session") == []


def stop(*_: Any) -> None:
    raise KeyboardInterrupt


# -- letters -----------------------------------------------------------------------------------------------------------------


def test_letters_go_by_subject_by_key_and_by_parent(registrar):
    registrar.write(session("s1"), session("s2", "bob"))
    wrong = [
        session("s3", total_tasks="many"),
        session("s1", None, total_tasks="many"),
        task("t1", "s1", sequence="many"),
        session("s4", "bob", total_tasks="many"),
        task("t2", "s2", sequence="many"),
        event("guardian.memory", {"memory_id": "m", "user_id": "ada"}, 2_000_000_000_000_000),
    ]
    assert registrar.write(*wrong) == {"dead": 5, "held": 1}

    assert before_and_after(registrar, "ada")["penstock.dead_letters"] == (4, 0)
    assert len(registrar.query("SELECT 1 FROM penstock.dead_letters")) == 2
    assert registrar.outcomes() == {"stored": 2, "fenced": 4, "dead": 2}


def test_a_row_goes_of_which_only_a_letter_tells_whose_it_was(registrar):
    """What named the person could not be stored; its children could, and what said more of it."""
    registrar.write(
        session("s1", total_tasks="many"), task("t1", "s1", source_text="secret"), session("s1", None, metadata={"a": 1})
    )
    registrar.write(session("s2", "bob", total_tasks="many"), task("t2", "s2", source_text="kept"))
    # A letter of the person about a row that is somebody else's.
    registrar.write(session("s3", "bob"), session("s3", total_tasks="many"))

    registrar.erase("ada")
    assert [key for key, _ in registrar.left("translation.session")] == ["s3"]
    assert [key for key, _ in registrar.left("translation.task")] == ["t2"]
    assert registrar.write(task("t3", "s1", source_text="secret")) == {"fenced": 1}


def test_of_a_whole_message_only_the_persons_events_are_cut(registrar):
    message = registrar.message(
        session("s1", metadata={"pi": 3.14159265358979323846}), session("s2", "bob", metadata={"n": 1.50}), v=2
    )
    assert registrar.writer.write([message]).outcomes == {"held": 2}
    (before,) = registrar.query("SELECT payload FROM penstock.dead_letters")

    assert before_and_after(registrar, "ada")["penstock.dead_letters"] == (1, 0)
    (after,) = registrar.query("SELECT payload FROM penstock.dead_letters")
    kept = json.loads(before[0])["events"][1]
    cut = {"type": "translation.session", "op": "delete", "version": VERSION, "data": {"session_id": "s1"}}
    assert json.loads(after[0])["events"] == [cut, kept]
    assert before_and_after(registrar, "ada") == {}


def test_a_letter_that_is_replayed_is_refused(registrar):
    held = registrar.open_writer(REGISTRY)
    del held
    registrar.write(event("translation.session", {"session_id": "s1", "user_id": "ada"}, now_us(registrar) + 10**9))
    assert registrar.letters() == [("held", "clock_ahead")]
    set_fences(registrar.connection, "ada", 2 * 10**9)

    registrar.replay()
    assert registrar.letters() == []
    assert registrar.outcomes() == {"fenced": 1}
    assert registrar.left("translation.session") == []


# -- holds, restores, commands -----------------------------------------------------------------------------------------------


def test_what_is_on_hold_is_kept_and_told(registrar):
    registrar.write(session("s1", total_tasks=1), session("s2"), task("t1", "s1"), task("t2", "s2"))
    hold = place_hold(registrar.connection, REGISTRY, type="translation.session", key=["s1"], reason="court", placed_by="Lea")

    proof = registrar.erase("ada")
    assert [(kept.type, kept.rows, kept.holds, kept.reasons) for kept in proof.kept] == [
        ("translation.session", 1, [hold.id], ["court"]),
        ("translation.task", 1, [hold.id], ["court"]),
    ]
    assert not proof.is_complete
    assert [key for key, _ in registrar.left("translation.session")] == ["s1"]
    assert [key for key, _ in registrar.left("translation.task")] == ["t1"]

    release_hold(registrar.connection, hold.id, "Lea")
    assert registrar.erase("ada").is_complete
    assert registrar.left("translation.session") == registrar.left("translation.task") == []


def test_a_child_that_was_on_hold_alone_goes_when_it_is_released(registrar):
    """Its parent is erased already, and tells no more whose it was."""
    registrar.write(session("s1"), task("t1", "s1", source_text="secret"), task("t2", "s1", source_text="secret"))
    hold = place_hold(registrar.connection, REGISTRY, type="translation.task", key=["t1"], reason="court", placed_by="Lea")

    assert [(kept.type, kept.rows) for kept in registrar.erase("ada").kept] == [("translation.task", 1)]
    assert [key for key, _ in registrar.left("translation.task")] == ["t1"]
    release_hold(registrar.connection, hold.id, "Lea")
    assert before_and_after(registrar, "ada") == {"translation.tasks": (1, 0)}
    assert registrar.left("translation.task") == []


def test_a_person_on_hold_is_not_erased_at_all(registrar):
    registrar.write(session("s1"))
    hold = place_hold(registrar.connection, REGISTRY, subject="ada", reason="court", placed_by="Lea")

    with pytest.raises(ConfigurationError, match="nothing was erased, the person is on legal hold"):
        registrar.erase("ada")
    assert registrar.query("SELECT 1 FROM penstock.fences") == []
    assert list_holds(registrar.connection)[0].id == hold.id
    assert registrar.write(session("s2")) == {"stored": 1}


def test_an_older_backup_does_not_bring_people_back(registrar):
    """The tables as they were, and the fences of the time before the restore."""
    registrar.erase("bob")
    registrar.write(session("s1"), task("t1", "s1"), session("s2", "eve"), session("s3", total_tasks="many"))
    backup = {name: registrar.query(f"SELECT t::text FROM {name} t") for name in BACKED_UP}
    registrar.erase("ada")
    registrar.write(session("s9", "cid"))

    carried = carry_fences(registrar.connection)
    for name in reversed(BACKED_UP):
        registrar.query(f"DELETE FROM {name}")
    for name, rows in backup.items():
        for (row,) in rows:
            registrar.query(f"INSERT INTO {name} OVERRIDING SYSTEM VALUE SELECT (%s::{name}).*", row)
    with connect_with(registrar.settings)() as connection:
        assert reapply(connection, REGISTRY, carried, registrar.settings) == {
            "fences": 2,
            "erased": {"translation.session": 1, "translation.task": 1, "dead_letters": 1},
        }
        assert reapply(connection, REGISTRY, carried, registrar.settings)["erased"] == {}
    assert [key for key, _ in registrar.left("translation.session")] == ["s2"]
    assert registrar.write(session("s4"), session("s5", "bob"), session("s6", "cid")) == {"fenced": 2, "stored": 1}
    assert registrar.query("SELECT count(*) FROM penstock.privacy_log") == [(2,)]


BACKED_UP = [
    "penstock.fence_key",
    "penstock.fences",
    "penstock.privacy_log",
    "penstock.dead_letters",
    "translation.sessions",
    "translation.tasks",
]


def test_there_is_nothing_to_carry_where_there_are_no_tables(postgres_server: PostgresServer, registrar):
    url = postgres_server.create_database()
    with psycopg.connect(url, autocommit=True) as empty:
        carried = carry_fences(empty)
    postgres_server.drop_database(url)

    with connect_with(registrar.settings)() as connection:
        assert reapply(connection, REGISTRY, carried, registrar.settings) == {"fences": 0, "erased": {}}


def erase_person(registrar: Registrar, *words: str) -> Any:
    return penstock_here("erase-person", *words, PENSTOCK_DATABASE_URL=registrar.url, PENSTOCK_RECORDS="tests.erasing")


def test_the_command_tells_first_and_erases_then(registrar):
    registrar.write(session("s1"), task("t1", "s1"))

    dry = erase_person(registrar, "ada", "--dry-run", "--json")
    assert (dry.returncode, json.loads(dry.stdout)["is_dry_run"]) == (0, True)
    assert len(registrar.left("translation.session")) == 1
    assert registrar.query("SELECT 1 FROM penstock.privacy_log") == []

    for missing in (["--who", "Grace"], ["--why", "ticket 7"]):
        refused = erase_person(registrar, "ada", "--yes", *missing)
        assert (refused.returncode, "is missing" in refused.stderr) == (2, True)
    done = erase_person(registrar, "ada", "--who", "Grace", "--why", "ticket 7", "--yes")
    assert done.returncode == 0
    assert "translation.sessions" in done.stdout
    assert registrar.left("translation.session") == registrar.left("translation.task") == []


def test_a_trace_says_that_a_row_was_erased(registrar):
    registrar.write(session("s1"))
    registrar.erase("ada")

    traced = penstock_here("trace", "translation.session", "s1", PENSTOCK_DATABASE_URL=registrar.url)
    assert "It was erased with the person it was about" in traced.stdout
    assert "ffffffff" not in traced.stdout


def test_it_is_not_done_where_types_are_missing(registrar):
    """What is in their tables would stay, and the proof would not say so."""
    with (
        connect_with(registrar.settings)() as connection,
        pytest.raises(ConfigurationError, match=r"the record types of lab\.clicks, .*set PENSTOCK_RECORDS"),
    ):
        erase.erase_person(connection, load_registry(()), registrar.settings, Request("ada", "Grace", "ticket 7"))
    assert registrar.query("SELECT 1 FROM penstock.fences") == []


def test_the_command_says_what_was_kept(registrar):
    registrar.write(session("s1"))
    place_hold(registrar.connection, REGISTRY, type="translation.session", reason="court", placed_by="Lea")

    done = erase_person(registrar, "ada", "--who", "Grace", "--why", "ticket 7", "--yes")
    assert done.returncode == 3
    place_hold(registrar.connection, REGISTRY, subject="ada", reason="tax", placed_by="Lea")
    refused = erase_person(registrar, "ada", "--who", "Grace", "--why", "ticket 7", "--yes")
    assert (refused.returncode, refused.stdout) == (3, "")
    assert "the person is on legal hold (hold" in refused.stderr
    assert "kept: 1 of translation.session (hold" in done.stdout


def wait_for(look: Any) -> None:
    deadline = datetime.now(UTC).timestamp() + LONG_S
    while not look():
        assert datetime.now(UTC).timestamp() < deadline, "nothing to see"
        threading.Event().wait(0.01)
