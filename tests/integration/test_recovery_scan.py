"""Which records are found incomplete, how they are offered, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from uuid import UUID

import pytest
from kombu.connection import Connection
from pydantic import AwareDatetime

from penstock_schemas import Declaration, Lifecycle, Record
from penstock_schemas.registry import Registry, load_registry
from penstock_schemas.topology import queues
from penstock_worker.maintenance import listening
from penstock_worker.maintenance import recovery as scans
from penstock_worker.maintenance.listening import why_deaf
from penstock_worker.settings import Settings
from penstock_worker.store.connection import connect_with
from penstock_worker.store.recovery import claim, resolve
from penstock_worker.store.recovery.held import spoken_keys
from penstock_worker.store.recovery.interrupt import Interruption
from penstock_worker.store.recovery.listening import Ear
from penstock_worker.store.recovery.rules import rules_of
from penstock_worker.store.recovery.search import Search
from tests.records import Run, Site
from tests.recovering import SESSION, TASK, Ward, minutes
from tests.replaying import VERSION, event

HOUR_US = 3_600_000_000
DAY = minutes(24 * 60)


@pytest.fixture
def ward(database_url: str, valkey_url: str) -> Iterator[Ward]:
    ward = Ward(database_url, valkey_url)
    yield ward
    ward.close()


# -- what is found -------------------------------------------------------------------------------------------------------------


def test_a_silent_session_is_found_once_and_given_up_in_the_end(ward: Ward) -> None:
    ward.session("s1")
    ward.task("t1", "s1")
    assert ward.scan(minutes(29)) == {"found": 0, "offered": 0, "pages": 2}
    assert ward.scan(minutes(31)) == {"found": 1, "offered": 1, "pages": 2}
    assert ward.found() == ["s1"], "its task is restored with it"
    assert ward.scan(minutes(31.5)) == {"found": 0, "offered": 0, "pages": 2}

    done = ward.scan(DAY + minutes(1))

    assert (done["ended"], done["interrupted_below"]) == ({"interrupted": 1}, 1)
    assert (ward.states(), ward.states(TASK), ward.found()) == ({"s1": "interrupted"}, {"t1": "interrupted"}, [])
    assert ward.scan(2 * DAY)["found"] == 0, "it has been given up already"


def test_only_what_lives_and_has_not_ended_can_be_incomplete(ward: Ward) -> None:
    for status in (None, "pending", "running", "completed", "failed", "cancelled", "interrupted"):
        ward.session(str(status), status)
    ward.store(SESSION, session_id="never told")
    ward.session("deleted")
    ward.office.write(event(SESSION, {"session_id": "deleted"}, VERSION + 1, "delete"))
    ward.task("t1", "a placeholder", "completed")
    ward.office.write(event(TASK, {"task_id": "fallen with it", "session_id": "deleted", "status": "running"}))
    ward.scan(minutes(31))
    assert sorted(ward.found()) == ["None", "never told", "pending", "running"]


def test_a_child_is_found_itself_where_nobody_looks_after_its_parent(ward: Ward) -> None:
    for status in ("running", "completed", "interrupted"):
        ward.session(f"s {status}", status)
        ward.task(f"t {status}", f"s {status}")
    ward.task("t of a placeholder", "s?")
    ward.store("scheduler.execution", id="x", job_id="j", status="running")
    ward.scan(minutes(31))
    assert sorted(ward.found()) == ["s running", "t completed", "t interrupted", "t of a placeholder", "x"]


def test_what_happens_below_it_is_its_own_activity(ward: Ward) -> None:
    ward.session("s1")
    ward.age(SESSION, minutes(60), session_id="s1")
    ward.task("t1", "s1", "completed")
    assert ward.scan(minutes(29))["found"] == 0
    assert ward.scan(minutes(31))["found"] == 1


def test_a_session_that_was_found_is_found_again_after_its_next_silence(ward: Ward) -> None:
    ward.session("s1")
    ward.scan(minutes(31))
    ward.query("UPDATE translation.sessions SET _stored_at = %s", ward.start + minutes(32))
    assert ward.scan(minutes(33))["ended"] == {"active again": 1}
    assert ward.scan(minutes(61))["found"] == 0
    assert ward.scan(minutes(63))["found"] == 1


def test_two_scans_at_once_find_everything_once(ward: Ward) -> None:
    for number in range(40):
        ward.session(f"s{number}")
    rules, start = rules_of(ward.registry, ""), threading.Barrier(2)
    ear, counts = Ear(rules[SESSION], 0, ward.start), []

    def search() -> None:
        with connect_with(ward.settings)() as connection:
            start.wait(60)
            counts.append(Search(connection, ward.registry, rules, ear, ward.start + minutes(31)).run(100, ())[0])

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert (sum(counts), len(set(ward.found()))) == (40, 40)
    assert ward.query("SELECT count(*) FROM penstock.recoveries") == [(40,)]


def test_a_second_run_does_nothing_while_one_is_under_way(ward: Ward) -> None:
    seen = []

    def scan_inside(_settings: Settings) -> None:
        seen.append(ward.look(minutes(31)))

    ward.session("s1")
    assert ward.scan(minutes(31), scan_inside)["found"] == 1
    assert seen == [{"skipped": "another run is under way"}]


def test_a_run_reads_so_many_pages_and_the_next_one_goes_on(ward: Ward) -> None:
    """A table of finished sessions, with one that is not at its end."""
    filler = "x" * 1_500
    ward.query(
        "INSERT INTO translation.sessions (session_id, status, source_language, _version, _event)"
        " SELECT 'f' || n, 'completed', %s, 1, gen_random_uuid() FROM generate_series(1, 40) AS n",
        filler,
    )
    ward.session("s1")
    (pages,) = ward.query("SELECT pg_relation_size('translation.sessions') / 8192")[0]
    assert pages > 6
    read = []
    while not ward.found():
        assert len(read) <= pages
        # The other types are empty, and their part is left to this one.
        read.append(ward.scan(minutes(31 + len(read)), recovery_pages_per_run=3)["pages"])
    assert set(read) <= {1, 2, 3}
    assert len(read) >= pages / 3


def test_a_type_whose_table_is_still_to_be_made_stops_nobody_else(database_url: str, valkey_url: str) -> None:
    classes = load_registry().classes.values()
    ward = Ward(database_url, valkey_url, Registry([*classes, Site, Run]))
    try:
        ward.session("s1")
        done = ward.scan(minutes(31))
        assert (done["found"], done["waits"]) == (
            1,
            {
                "`penstock migrate up` makes the table of lab.site, lab.run": ["lab.site"],
                "`penstock migrate up` makes the table of lab.run": ["lab.run"],
            },
        )
    finally:
        ward.close()


# -- when silence means nothing ------------------------------------------------------------------------------------------------


def test_after_an_outage_silence_counts_from_anew(ward: Ward) -> None:
    ward.session("lives", "running")
    assert ward.scan(minutes(29), lambda _: "12,345 messages wait")["waits"] == {
        "12,345 messages wait": list(rules_of(ward.registry, ""))
    }
    for later in (31, 45, 58):
        assert set(ward.look(minutes(later))) == {"found", "offered", "pages", "waits"}
    assert ward.found() == []
    ward.query("UPDATE translation.sessions SET _stored_at = %s", ward.start + minutes(31))  # from the backlog
    ward.session("died")
    assert ward.look(minutes(60))["found"] == 1, "it has listened for half an hour"
    assert ward.found() == ["died"]


def test_nobody_listened_between_two_scans_far_apart(ward: Ward) -> None:
    ward.session("s1")
    waits = [bool(ward.look(minutes(later)).get("waits")) for later in (0, 14, 28, 43.1, 58, 73)]
    assert (waits, ward.found()) == ([True] * 6, [])
    assert ward.look(minutes(74))["found"] == 1


def test_what_is_open_is_neither_offered_nor_given_up_while_silence_means_nothing(ward: Ward) -> None:
    ward.session("s1")
    assert ward.scan(minutes(31))["offered"] == 1
    deaf = ward.look(DAY + minutes(31), lambda _: "no worker answers")
    assert (deaf["found"], deaf["offered"], "ended" in deaf, ward.found()) == (0, 0, False, ["s1"])
    ward.session("s1", "completed", VERSION + 1)
    assert ward.look(DAY + minutes(32), lambda _: "no worker answers")["ended"] == {"completed": 1}


def test_what_may_hold_events_up(ward: Ward, broker_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ward.settings.model_copy(update={"broker_url": broker_url, "recovery_backlog_messages": 2})
    assert why_deaf(settings) == "no worker answers"
    works = {"held_messages": 1, "paused_why": None, "stalled_why": None}
    for steps, why in (
        ([works, works | {"paused_why": "the database is away"}], None),
        ([works | {"paused_why": "the database is away"}], "no worker works: the database is away"),
        ([works | {"stalled_why": "it hangs"}], "no worker works: it hangs"),
        ([works | {"held_messages": 3}], "3 messages wait"),
    ):
        monkeypatch.setattr(listening, "workers_stats", lambda _, steps=steps: dict(enumerate(steps)))
        assert why_deaf(settings) == why
    monkeypatch.setattr(listening, "workers_stats", lambda _: {"w": works})
    publish_unread(broker_url, settings.queue, 1)
    assert why_deaf(settings) is None
    publish_unread(broker_url, settings.queue, 1)
    assert why_deaf(settings) == "3 messages wait"
    nowhere = "redis://127.0.0.1:1/0" if broker_url.startswith("redis") else "amqp://127.0.0.1:1//"
    assert str(why_deaf(settings.model_copy(update={"broker_url": nowhere}))).startswith("the broker is away: ")


def publish_unread(broker_url: str, queue: str, count: int) -> None:
    """Messages that no worker takes."""
    with Connection(broker_url) as connection, connection.channel() as channel:
        if broker_url.startswith("amqp"):
            for name, arguments in queues(queue).items():
                channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
        producer = connection.Producer(channel)
        for _ in range(count):
            producer.publish({}, exchange="", routing_key=queue)


@pytest.mark.parametrize("hours", [-30, -3, 3])
def test_a_session_whose_services_clock_is_wrong_is_not_stale(ward: Ward, hours: int) -> None:
    """Ahead, its events are held; behind, they are stored, and only versions are old."""
    now = ward.query("SELECT (extract(epoch FROM now()) * 1000000)::bigint")[0][0]
    ward.session("s1", version=now - 100 * HOUR_US)
    ward.session("other", version=now)
    for name in ("s1", "other"):
        ward.age(SESSION, minutes(60), session_id=name)
    skewed = event(TASK, {"task_id": "t1", "session_id": "s1", "status": "running"}, now + hours * HOUR_US)
    assert ward.office.write(skewed) == ({"held": 1} if hours > 0 else {"stored": 1})
    ward.scan(minutes(1))
    assert ward.found() == ["other"]


def test_many_held_letters_may_be_about_anybody(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock_worker.store.recovery.held.LETTERS_READ", 3)
    ward.session("s1")
    ward.age(SESSION, minutes(60), session_id="s1")
    ahead = 2**52
    ward.office.write(*(event(TASK, {"task_id": f"t{n}", "session_id": "s2"}, ahead) for n in range(4)))
    assert ward.scan(minutes(1))["waits"] == {"held letters may be about any of them": [SESSION, TASK]}
    assert ward.scan(minutes(31))["found"] == 1, "they are old by now"


def test_a_held_letter_whose_key_nobody_can_store_fails_no_scan(ward: Ward) -> None:
    """Of a producer that sends many of them: above their rate such events are held."""
    ward.session("s1")
    assert ward.office.write(event(TASK, {"task_id": "t1", "session_id": "a\0b"})) == {"dead": 1}
    ward.query("UPDATE penstock.dead_letters SET state = 'held'")
    assert ward.scan(minutes(1))["waits"] == {"held letters may be about any of them": [SESSION]}


def test_who_was_heard_of_in_a_held_letter_is_not_given_up(ward: Ward) -> None:
    for name in ("s1", "other"):
        ward.session(name)
    ward.scan(minutes(31))
    assert ward.office.write(event(TASK, {"task_id": "t1", "session_id": "s1"}, 2**52)) == {"held": 1}
    ward.query("UPDATE penstock.dead_letters SET at = %s", ward.start + DAY)
    ward.scan(DAY + minutes(1))
    assert ward.states() == {"other": "interrupted", "s1": "running"}


class Watch(Record):
    """Its key is written in many ways, and stored in one."""

    __record__ = Declaration(
        type="lab.watch", table="lab.watches", key=("watch_id", "since"), lifecycle=Lifecycle("status", terminal=("done",))
    )

    watch_id: UUID
    since: AwareDatetime
    status: str | None = None


def test_the_key_of_a_held_letter_is_compared_as_rows_have_it(ward: Ward) -> None:
    registry = Registry([Watch])
    key = {"watch_id": "ABCDEF00-0000-4000-8000-00000000000A", "since": "2026-11-01T01:00:00+01:00"}
    message = ward.office.message(event("lab.watch", key | {"status": "running"}))
    assert ward.office.open_writer(registry).write([message]).outcomes == {"held": 1}, "its table is not there"
    spoken = spoken_keys(ward.connection, registry, registry["lab.watch"], ward.start - DAY)
    assert spoken == {'["abcdef00-0000-4000-8000-00000000000a", "2026-11-01 00:00:00+00"]'}


# -- how it ends ---------------------------------------------------------------------------------------------------------------


def test_a_late_event_ends_it(ward: Ward) -> None:
    for name in ("ends", "fails", "goes on", "goes on below", "is deleted"):
        ward.session(name)
    ward.scan(minutes(31))
    ward.session("ends", "completed", VERSION + 1)
    ward.session("fails", "failed", VERSION - 1)
    ward.office.write(event(SESSION, {"session_id": "is deleted"}, VERSION + 1, "delete"))
    ward.session("goes on", "running", VERSION + 1)
    ward.task("t1", "goes on below")
    later = [ward.start + minutes(32)]
    ward.query("UPDATE translation.sessions SET _stored_at = %s WHERE session_id = 'goes on'", *later)
    ward.query("UPDATE translation.tasks SET _stored_at = %s", *later)

    ward.scan(minutes(33))

    assert ward.found() == []
    outcomes = ["completed", "completed", "active again", "active again", "gone"]
    assert list(ward.ended().values()) == outcomes


def test_who_has_resolved_it_is_given_time(ward: Ward) -> None:
    ward.session("s1")
    ward.scan(minutes(31))
    (found,) = ward.open()
    resolve(ward.connection, found.id, None, outcome="resumed", by="me", now=ward.start + minutes(40))
    assert ward.ended() == {'["s1"]': "resumed"}
    assert ward.scan(minutes(69))["found"] == 0
    assert ward.scan(minutes(71))["found"] == 1


def test_who_has_claimed_it_is_given_time_too(ward: Ward) -> None:
    ward.session("s1")
    ward.scan(minutes(31))
    (found,) = ward.open()
    at = ward.start + DAY
    assert claim(ward.connection, found.id, by="me", for_s=3_600, now=at)
    held = ward.scan(DAY + minutes(59))
    assert (held["offered"], ward.states()) == (0, {"s1": "running"})
    assert ward.scan(DAY + minutes(61))["ended"] == {"interrupted": 1}


def test_what_comes_after_the_look_is_not_given_up(ward: Ward) -> None:
    for name in ("s1", "s2", "other"):
        ward.session(name)
    ward.scan(minutes(31))
    ward.age(SESSION, -DAY, session_id="s1")
    ward.task("t1", "s2")
    ward.age(TASK, -DAY, task_id="t1")
    rules = rules_of(ward.registry, "")
    giving_up = Interruption(ward.connection, ward.registry, rules, ward.start + DAY + minutes(1))
    assert giving_up.begin(rules[SESSION], (), 10) == 1
    assert ward.states() == {"other": "interrupted", "s1": "running", "s2": "running"}


def test_what_its_holder_stores_takes_no_claim_away(ward: Ward) -> None:
    ward.session("s1")
    ward.scan(minutes(31))
    (found,) = ward.open()
    taken = claim(ward.connection, found.id, by="me", for_s=7_200, now=ward.start + minutes(31))
    assert taken
    ward.session("s1", "running", VERSION + 1)
    ward.age(SESSION, -minutes(32), session_id="s1")
    for later in (33, 64, 150):
        assert ward.scan(minutes(later))["found"] == 0, "nobody else may take it"
    assert [recovery.claimed_by for recovery in ward.open()] == ["me"]
    assert "ended" not in ward.scan(minutes(150.9))
    assert ward.scan(minutes(151))["ended"] == {"active again": 1}


def test_a_scan_that_died_while_it_interrupted_tasks_is_continued(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    ward.session("s1")
    for number in range(5):
        ward.task(f"t{number}", "s1")
    ward.task("t9", "s1", "completed")
    ward.scan(minutes(31))
    monkeypatch.setattr(scans, "ROWS_BELOW", 2)
    done = [ward.scan(DAY + minutes(later))["interrupted_below"] for later in (1, 2)]
    assert (done, ward.states(), ward.ended()) == ([2, 2], {"s1": "interrupted"}, {})
    assert ward.scan(DAY + minutes(3))["interrupted_below"] == 1
    assert ward.ended() == {'["s1"]': "interrupted"}
    assert set(ward.states(TASK).values()) == {"interrupted", "completed"}


def test_tasks_of_a_session_that_lives_again_are_left_alone(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    ward.session("s1")
    for number in range(3):
        ward.task(f"t{number}", "s1")
    ward.scan(minutes(31))
    monkeypatch.setattr(scans, "ROWS_BELOW", 1)
    ward.scan(DAY + minutes(1))
    ward.session("s1", "running", VERSION + 1)
    ward.scan(DAY + minutes(2))
    assert (ward.states(), sorted(map(str, ward.states(TASK).values()))) == (
        {"s1": "running"},
        ["interrupted", "running", "running"],
    )


def test_a_task_that_speaks_after_its_session_was_given_up_is_left_alone(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    ward.session("s1")
    for number in range(3):
        ward.task(f"t{number}", "s1")
    ward.scan(minutes(31))
    monkeypatch.setattr(scans, "ROWS_BELOW", 1)
    ward.scan(DAY + minutes(1))
    ward.task("t2", "s1", "running", VERSION + 1)
    ward.age(TASK, -DAY - minutes(1), task_id="t2")
    monkeypatch.setattr(scans, "ROWS_BELOW", 9)
    ward.scan(DAY + minutes(2))
    assert ward.states(TASK) == {"t0": "interrupted", "t1": "interrupted", "t2": "running"}
    ward.scan(DAY + minutes(32))
    assert ward.found() == ["t2"], "it is looked after by itself now"


def test_what_is_over_is_kept_for_a_while(ward: Ward) -> None:
    ward.session("s1", "running")
    ward.scan(minutes(31))
    ward.session("s1", "completed", VERSION + 1)
    ward.scan(minutes(32))
    ward.scan(30 * DAY)
    assert len(ward.ended()) == 1
    ward.scan(31 * DAY)
    assert ward.ended() == {}


def test_settings_overrule_the_declaration(ward: Ward) -> None:
    ward.session("s1")
    ward.store("orchestration.session", session_id="o1", status="active")
    ward.scan(minutes(11), recovery="translation.session=10m/1d")
    assert ward.found() == ["s1"]
    told = "translation.sesion has no lifecycle"
    with pytest.raises(Exception, match=told):
        ward.scan(minutes(11), recovery="translation.sesion=10m/1d")
