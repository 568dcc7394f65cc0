"""
What a batch costs, in counts that no noisy machine can change: statements, transactions, round trips, bytes copied, objects.

A figure here is what the code needs today. Less is fine, and then the figure goes down; more is a decision, not an accident.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import psycopg
import pytest
import redis
from kombu.asynchronous.hub import Hub

from bench.workload import EVENTS_PER_MESSAGE, Message, build_corrections, build_metrics, build_small, build_updates, copies
from penstock_producers.transports import transport_for
from penstock_schemas.registry import load_registry
from penstock_schemas.wire import QUEUE, Envelope, new_epoch
from penstock_worker.ingest.message import Event, RawMessage
from penstock_worker.ingest.redis_source import RedisSource
from penstock_worker.ingest.source import Delivery
from penstock_worker.ingest.write import Writer
from penstock_worker.settings import Settings
from penstock_worker.store.privacy.fences import set_fences
from tests.wiretap import Traffic, tapped

EVENTS = 2_000


class Batch(NamedTuple):
    """Messages to be stored, after those that are there before."""

    before: list[Message]
    messages: list[Message]


class Cost(NamedTuple):
    """The most that a batch may take; bytes copied are a multiple of the bytes that came over the wire."""

    statements: int
    round_trips: int
    copied: float


class Scale:
    """A writer, and what it takes to write."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.writer = Writer.of(Settings(database_url=url), load_registry(()))
        #: Events that were looked at one by one; usual ones are columns only.
        self.objects = 0

    def write(self, messages: Sequence[Message]) -> dict[str, int]:
        return self.writer.write(
            [RawMessage(message.body, message.content_type, message.headers) for message in messages]
        ).outcomes

    def weigh(self, messages: Sequence[Message]) -> Traffic:
        """Write them all, and nothing but stored comes of it."""
        self.objects = 0
        with tapped(self.writer.database.connection()) as traffic:
            outcomes = self.write(messages)
        assert outcomes == {"stored": sum(int(str(message.headers["count"])) for message in messages)}
        return traffic

    def count_object(self) -> None:
        self.objects += 1


@pytest.fixture
def scale(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scale]:
    scale = Scale(database_url)
    made = Event.__post_init__

    def make(event: Event) -> None:
        scale.count_object()
        made(event)

    monkeypatch.setattr(Event, "__post_init__", make)
    yield scale
    scale.writer.database.close()


def new_rows() -> Batch:
    load = build_updates(EVENTS)
    return Batch(load.sessions, load.before)


def newer_versions() -> Batch:
    load = build_updates(EVENTS)
    return Batch([*load.sessions, *load.before], load.tasks)


def partial_records() -> Batch:
    load = build_corrections(EVENTS)
    return Batch([*load.sessions, *load.before], load.tasks)


def appended() -> Batch:
    messages, _ = build_metrics(EVENTS)
    return Batch([], messages)


COSTS = {
    new_rows: Cost(statements=8, round_trips=10, copied=0.80),
    newer_versions: Cost(statements=7, round_trips=9, copied=0.80),
    partial_records: Cost(statements=8, round_trips=10, copied=2.0),
    appended: Cost(statements=7, round_trips=9, copied=0.80),
}


@pytest.mark.parametrize("make", COSTS, ids=lambda make: make.__name__)
def test_a_batch_costs_as_much_as_before(scale, make):
    batch, limit = make(), COSTS[make]
    # The first message of its producer makes the staging table, says that the producer is there, and finds out whether its rows
    # are: once, not with every batch.
    for earlier in (batch.before, batch.messages[:1]):
        scale.write(earlier)

    traffic = scale.weigh(batch.messages[1:])

    came = sum(len(message.body) for message in batch.messages[1:])
    assert (traffic.transactions, scale.objects) == (1, 0)
    assert traffic.statements <= limit.statements
    assert traffic.round_trips <= limit.round_trips
    assert traffic.copied_bytes <= limit.copied * came


def test_parents_and_producers_that_are_new_cost_four_statements_more(scale):
    """However many they are: three for the parents' placeholders, which go straight into their table, one for the producers."""
    batch = new_rows()
    scale.write([*batch.before, batch.messages[0]])
    _, _, _, _, *others = copies(batch.messages, 2)

    alone = scale.weigh(batch.messages[1:])
    with_both, with_parents = scale.weigh(others[:2]), scale.weigh(others[2:])

    assert with_parents.statements <= alone.statements + 3
    assert with_both.statements <= alone.statements + 4


def test_a_wrong_guess_costs_five_statements_and_is_not_repeated_at_once(scale):
    """Rows that seem new go straight into their table; when one of them is there, all are staged after all."""
    batch = newer_versions()
    for earlier in (batch.before, batch.messages[:1]):
        scale.write(earlier)

    merged, guessed, merged_again = (scale.weigh([message]) for message in batch.messages[1:])

    assert [traffic.errors for traffic in (merged, guessed, merged_again)] == [0, 1, 0]
    assert merged_again.statements == merged.statements
    assert guessed.statements <= merged.statements + 5
    assert guessed.copied_bytes <= 2 * COSTS[newer_versions].copied * len(batch.messages[2].body)


def test_a_larger_batch_takes_no_more_statements(scale):
    batch = new_rows()
    scale.write([*batch.before, batch.messages[0]])

    small, large = scale.weigh(batch.messages[1:2]), scale.weigh(batch.messages[2:])

    assert (large.statements, large.round_trips) == (small.statements, small.round_trips)
    assert large.copied_bytes > 1.5 * small.copied_bytes


def test_erased_people_cost_the_others_nothing(scale):
    """Fences are read once, with the first batch after an erasure; of those who are not erased nothing is asked."""
    batch = new_rows()
    scale.write([*batch.before, *batch.messages[:1]])
    before = scale.weigh(batch.messages[1:2])
    with psycopg.connect(scale.url, autocommit=True) as connection:
        for number in range(20):
            set_fences(connection, f"nobody {number}", 0)

    learning, after = scale.weigh(batch.messages[2:3]), scale.weigh(batch.messages[3:4])
    assert (learning.statements, after.statements) == (before.statements + 2, before.statements)
    assert (after.round_trips, scale.objects) == (before.round_trips, 0)


def test_many_small_messages_are_one_transaction(scale):
    """Ledger and all: a message has no cost of its own in the database."""
    batch, small = new_rows(), build_small(EVENTS_PER_MESSAGE + 1).envelopes
    scale.write([*batch.before, batch.messages[-1], small[0]])
    whole = scale.weigh(batch.messages[-2:-1])

    traffic = scale.weigh(small[1:])

    assert (traffic.transactions, traffic.statements, traffic.round_trips) == (1, whole.statements, whole.round_trips)


def test_a_repeated_key_makes_objects_of_its_messages_only(scale):
    """These are folded; the other messages of the batch stay columns."""
    batch = newer_versions()
    scale.write(batch.before)

    scale.weigh([*batch.messages, batch.messages[0]])

    assert scale.objects == 2 * EVENTS_PER_MESSAGE


def test_a_thousand_messages_are_few_calls_of_redis(valkey_url):
    """One to publish them, a few to take and to acknowledge them, the scripts' loading among these; no lease is renewed."""
    epoch, count = new_epoch(), 1_000
    with redis.Redis.from_url(valkey_url) as client:
        client.config_resetstat()
        transport = transport_for(valkey_url, QUEUE, 30)
        transport.send([Envelope("p", epoch, number, [b"{}"]) for number in range(count)], lambda _: None)
        transport.close()
        assert calls(client, "lpush") == 1

        client.config_resetstat()
        take_and_acknowledge(valkey_url, count)
        assert calls(client, "evalsha") + calls(client, "eval") <= 10
        assert client.llen(QUEUE) == client.hlen(f"{QUEUE}:leased") == 0


def test_the_wire_is_counted(database_url):
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE words (word text)")
        with tapped(connection) as alone:
            connection.execute("SELECT 1")
        with tapped(connection) as together:
            with connection.transaction(), connection.cursor().copy("COPY words FROM STDIN") as copy:
                copy.write(b"one\ntwo\n")
            connection.execute("SELECT count(*) FROM words WHERE word = %s", ["one"])
        with tapped(connection) as refused, pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("SELECT FROM no_words")

    assert alone == Traffic(statements=1, transactions=1, round_trips=1)
    assert together == Traffic(statements=4, transactions=2, round_trips=5, copied_bytes=8)
    assert refused == Traffic(statements=1, transactions=1, round_trips=1, errors=1)


def take_and_acknowledge(broker_url: str, count: int) -> None:
    hub = Hub()
    deliveries: list[Delivery] = []
    source = RedisSource(Settings(broker_url=broker_url, lease_s=3600), hub.timer, owner="a")
    try:
        hub.timer.call_repeatedly(0.01, lambda: None)  # the loop never sleeps for longer
        source.start(deliveries.extend, lambda: len(deliveries) < count)
        deadline = time.monotonic() + 120
        while len(deliveries) < count:
            assert time.monotonic() < deadline, f"{len(deliveries)} of {count} messages came"
            hub.run_once()
        source.ack(deliveries)
    finally:
        source.close()
        hub.close()


def calls(client: redis.Redis, command: str) -> int:
    statistics = client.info("commandstats")
    return int(statistics.get(f"cmdstat_{command}", {}).get("calls", 0))
