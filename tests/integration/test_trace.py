"""`penstock trace`: each place where an event can be, and each state of a row, told in plain sentences."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from uuid import UUID

import psycopg
import pytest
import redis

from penstock_producers.transports.redis import kombu_message
from penstock_schemas import load_registry
from penstock_schemas.wire import CONTENT_TYPE, QUEUE, DroppedRange, Envelope, encode_event, event_id, new_epoch
from penstock_worker.cli.trace import explain_event, explain_row
from penstock_worker.ingest.message import RawMessage
from penstock_worker.ingest.write import Writer
from penstock_worker.queue_look import find_message, look_at_queue
from penstock_worker.settings import Settings
from penstock_worker.store import queries
from penstock_worker.store.row_trace import letters_of_key, trace_row
from penstock_worker.store.trace import trace_event
from tests.commands import penstock_here as penstock

REGISTRY = load_registry()
NOW = time.time_ns() // 1_000


def session(key="s", version=NOW, op="upsert", **data):
    return encode_event("translation.session", op, version, json.dumps({"session_id": key, **data}).encode())


def task(key="t", version=NOW, **data):
    content = {"task_id": key, "session_id": "s", **data}
    return encode_event("translation.task", "upsert", version, json.dumps(content).encode())


class Desk:
    """Writes envelopes of one epoch as a worker does, and traces."""

    def __init__(self, database_url):
        self.settings = Settings(database_url=database_url, broker_url="redis://127.0.0.1:1/0")
        self.writer = Writer.of(self.settings, REGISTRY)
        self.epoch = new_epoch()

    def envelope(self, seq, *events, **given):
        return Envelope("billing", self.epoch, seq, events, **given)

    def write(self, seq, *events, **given):
        envelope = self.envelope(seq, *events, **given)
        self.writer.write([RawMessage(envelope.body(), CONTENT_TYPE, envelope.headers())])

    def id(self, seq):
        return UUID(event_id(self.epoch, seq))

    def event(self, seq, *, may_be_queued=False, grace_s=0.0, seen=None):
        with queries.open_reader(self.settings) as reader:
            return trace_event(reader, REGISTRY, self.id(seq), seen, grace_s, may_be_queued=may_be_queued)

    def row(self, type, *words):
        with queries.open_reader(self.settings) as reader:
            row = trace_row(reader, REGISTRY, type, words)
            row.letters = letters_of_key(reader, REGISTRY[type], row.key)
            return row


@pytest.fixture
def desk(database_url):
    desk = Desk(database_url)
    yield desk
    desk.writer.database.close()


def text(event):
    return " ".join(explain_event(event))


def test_an_event_whose_row_is_there(desk):
    desk.write(0, session(), task())

    event = desk.event(1)

    assert (event.state, event.seq, event.producer, event.epoch) == ("stored", 1, "billing", desk.epoch)
    assert [noted.outcome for noted in event.noted] == ["stored"]
    assert (event.row.type, event.row.key, event.row.event) == ("translation.task", {"task_id": "t"}, desk.id(1))
    assert "That is the newest event of this row." in list(explain_row(event.row, event))


def test_an_event_that_others_have_taken_the_place_of(desk):
    desk.write(0, session("s", NOW))
    desk.write(1, session("s", NOW + 1))
    desk.write(2, session("s", NOW - 1))

    first, late, row = desk.event(0), desk.event(2), desk.row("translation.session", "s")

    assert (first.state, first.row) == ("stored", None)
    assert "No row names it: newer events have taken its place." in text(first)
    assert late.state == "superseded"
    assert row.event == desk.id(1)
    assert f"This row holds nothing of it: event {desk.id(1)} is newer" in " ".join(explain_row(row, late))


def test_an_event_that_still_owns_a_column(desk):
    """Of a partial record, only some columns are newer."""
    column = next(column.name for column in REGISTRY["translation.task"].values if column.name == "source_text")
    desk.write(0, session(), task("t", NOW, **{column: "old"}))
    desk.write(2, task("t", NOW + 1, status="running"))

    event = desk.event(1)

    assert event.row.event == desk.id(2)
    assert any("still the one of" in line and column in line for line in explain_row(event.row, event))


def test_dead_held_and_dropped(desk):
    broken = task(version=NOW, sequence="many")
    desk.write(5, session(), broken, encode_event("no.type", "upsert", NOW, b"{}"), dropped=[DroppedRange(3, 4, "buffer_full")])

    dead, held, dropped = desk.event(6), desk.event(7), desk.event(3)

    assert (dead.state, dead.letter.reason) == ("dead", "invalid")
    assert "never be stored" in text(dead)
    assert dead.letter.detail in text(dead)
    assert (held.state, held.letter.reason) == ("held", "unknown_type")
    assert (dropped.state, dropped.noted[0].reason) == ("dropped", "buffer_full")
    assert "(buffer_full)" in text(dropped)


def test_a_whole_message_has_one_letter_for_all(desk):
    envelope = desk.envelope(0, session("a"), session("b"))
    desk.writer.write([RawMessage(b"garbage", CONTENT_TYPE, envelope.headers())])

    assert (desk.event(1).state, desk.event(1).letter.reason) == ("dead", "not_json")


def test_replayed_it_counts_as_stored(desk, database_url):
    desk.write(0, encode_event("no.type", "upsert", NOW, b"{}"))
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO penstock.ledger (epoch, seqs, outcome, reason) VALUES (%s, '[0,0]', 'stored', 'replayed')",
            [desk.epoch],
        )

    event = desk.event(0)

    assert event.state == "stored"
    assert [noted.outcome for noted in event.noted] == ["held", "stored"]


def test_missing_pending_and_what_was_never_heard_of(desk):
    desk.write(0, session("a"))
    desk.write(5, session("b"))

    assert [desk.event(3).state, desk.event(3, grace_s=600).state] == ["missing", "pending"]
    assert desk.event(3, may_be_queued=True).state == "queued_or_missing"
    assert desk.event(6).state == "not_given"
    assert "known to have sent 6 events" in text(desk.event(6))
    gap = desk.event(3).gap
    assert gap.published_after <= gap.published_before <= datetime.now(UTC)
    assert "It is missing" in text(desk.event(3))
    desk.epoch = new_epoch()
    assert desk.event(0).state == "unknown"
    assert "of no producer that this database or the queue knows" in text(desk.event(0))


def test_queued_and_in_a_workers_hands(desk, valkey_url):
    """A large body between the headers' end and the rest is not fetched; a stranger's message is passed over."""
    settings = Settings(database_url=desk.settings.database_url, broker_url=valkey_url)
    first, second = desk.envelope(0, session("a"), session("b", name="x" * 50_000)), desk.envelope(2, session("c"))
    with redis.Redis.from_url(valkey_url) as client:
        client.lpush(QUEUE, kombu_message(first, QUEUE), kombu_message(second, QUEUE), b'{"body": "from a stranger"}')
        client.hset(f"{QUEUE}:leased", "worker:1:1", kombu_message(desk.envelope(3, session("d")), QUEUE))

    queued, held = find_message(settings, desk.id(1)), find_message(settings, desk.id(3))
    look = look_at_queue(settings)

    assert (queued.where, queued.place, queued.seq, queued.count) == ("queue", "2", 0, 2)
    assert "2 newer messages are behind its own" in text(desk.event(1, seen=queued))
    assert (held.where, held.place) == ("worker", "worker:1:1")
    assert "A worker has it in hand" in text(desk.event(3, seen=held))
    assert find_message(settings, desk.id(4)) is None
    assert (look.waiting_messages, look.held_messages, look.events) == (3, 1, {desk.epoch: [(0, 3)]})
    assert (look.producers, look.high_water) == ({desk.epoch: "billing"}, {desk.epoch: 4})


def test_a_queue_of_many_pages_is_read_to_its_end(desk, valkey_url):
    settings = Settings(database_url=desk.settings.database_url, broker_url=valkey_url)
    with redis.Redis.from_url(valkey_url) as client:
        client.lpush(QUEUE, *(kombu_message(desk.envelope(seq, session()), QUEUE) for seq in range(0, 2_400, 2)))
        client.hset(
            f"{QUEUE}:leased",
            mapping={f"w:{seq}": kombu_message(desk.envelope(seq, session()), QUEUE) for seq in range(1, 2_400, 2)},
        )

    assert look_at_queue(settings).events == {desk.epoch: [(0, 2_399)]}


def test_the_event_of_a_row_that_was_asked_for_is_not_told_to_be_in_none(desk, broker_url):
    desk.write(0, session("s"))
    urls = {"PENSTOCK_DATABASE_URL": desk.settings.database_url, "PENSTOCK_BROKER_URL": broker_url}
    said = penstock("trace", "translation.session", "s", **urls)
    assert "That is the newest event of this row." in said.stdout
    assert "No row names it" not in said.stdout


def test_every_state_of_a_row(desk):
    desk.write(0, session("s", NOW), task("t", NOW))
    states = [desk.row("translation.task", "t").state, desk.row("translation.task", "u").state]
    desk.write(2, session("s", NOW + 1, op="delete"))
    deleted, fallen = desk.row("translation.session", "s"), desk.row("translation.task", "t")
    content = json.dumps({"task_id": "v", "session_id": "not there"}).encode()
    desk.write(3, encode_event("translation.task", "upsert", NOW, content))

    assert states == ["visible", "absent"]
    assert (deleted.state, deleted.deleted_event) == ("tombstone", desk.id(2))
    assert "Its last delete is event" in " ".join(explain_row(deleted, None))
    assert (fallen.state, fallen.event, fallen.parent_deleted_at) == ("hidden", desk.id(1), deleted.deleted_at)
    assert desk.row("translation.session", "not there").state == "placeholder"


def test_dead_letters_of_a_key(desk):
    """Found by the parsed payload: the same letters in another field are no key."""
    desk.write(0, task("grün", sequence="many"), task("other", sequence="many", source_text="grün"))

    row = desk.row("translation.task", "grün")

    assert (row.state, [letter.event_id for letter in row.letters]) == ("absent", [desk.id(0)])


def test_the_command(desk, broker_url):
    desk.write(0, session("s"), task("t"))
    urls = {"PENSTOCK_DATABASE_URL": desk.settings.database_url, "PENSTOCK_BROKER_URL": broker_url}

    by_id = penstock("trace", str(desk.id(1)), **urls)
    by_key = penstock("trace", "translation.task", "t", "--json", **urls)
    mistakes = [penstock("trace", *words, **urls) for words in (["no.type", "k"], ["translation.task", "t", "u"])]

    assert by_id.returncode == 0, by_id.stderr
    assert f"Event {desk.id(1)} is number 1 of billing" in by_id.stdout
    assert by_key.returncode == 0, by_key.stderr
    found = json.loads(by_key.stdout)
    assert (found["row"]["state"], found["row"]["event"]) == ("visible", str(desk.id(1)))
    assert (found["event"]["producer"], found["event"]["state"]) == ("billing", "stored")
    assert [(done.returncode, done.stderr.count("\n")) for done in mistakes] == [(2, 1), (2, 1)]
