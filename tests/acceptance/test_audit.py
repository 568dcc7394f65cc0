"""The audit does not echo the producer: events are lost, dropped and broken behind everybody's back, and it names each."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import psycopg
import pytest
import redis
from kombu.connection import Connection

from penstock_producers import Producer
from penstock_schemas.records.translation import TranslationSession
from penstock_schemas.wire import QUEUE
from penstock_worker.queue_look import look_at_queue
from penstock_worker.settings import Settings
from tests.acceptance.witness import until
from tests.commands import penstock

pytestmark = pytest.mark.acceptance


def sessions(name: str, count: int) -> list[TranslationSession]:
    return [TranslationSession(session_id=f"{name}-{number}") for number in range(count)]


def publish(broker_url: str, name: str, events: int, **options: Any) -> None:
    """Ten events in a message, and a message that says that these were all."""
    usual = {"batch_events": 10, "linger_s": 1_000, "exit_deadline_s": 120}
    with Producer(broker_url, name=name, **(usual | options)) as producer:
        producer.publish_many(sessions(name, events))


def publish_and_be_killed(broker_url: str) -> None:
    """Ten events are sent, five more accepted."""
    pid = os.fork()
    if pid == 0:
        producer = Producer(broker_url, name="killed", batch_events=10, linger_s=1_000)
        producer.publish_many(sessions("killed", 10))
        producer.flush(60)
        producer.publish_many(sessions("unsent", 5))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


class Queue:
    """The queue, in the hands of somebody who takes messages out and puts others in."""

    def __init__(self, broker_url: str) -> None:
        self._url, self._is_redis = broker_url, broker_url.startswith("redis")

    def take_all(self) -> list[dict[str, Any]]:
        """Headers and body of each, the oldest first."""
        if self._is_redis:
            with redis.Redis.from_url(self._url) as client:
                return [json.loads(message) for message in client.rpop(QUEUE, 1_000) or []]
        with Connection(self._url) as connection, connection.channel() as channel:
            messages = iter(lambda: channel.basic_get(QUEUE, no_ack=True), None)
            return [{"headers": message.headers, "body": message.body} for message in messages]

    def put(self, *messages: dict[str, Any]) -> None:
        if self._is_redis:
            with redis.Redis.from_url(self._url) as client:
                client.lpush(QUEUE, *map(json.dumps, messages))
            return
        with Connection(self._url) as connection, connection.Producer() as producer:
            for message in messages:
                producer.publish(
                    message["body"],
                    routing_key=QUEUE,
                    headers=message["headers"],
                    content_type="application/vnd.penstock.v1+json",
                    content_encoding="utf-8",
                )


def is_of(message: dict[str, Any], producer: str, seq: int) -> bool:
    return (message["headers"]["producer"], message["headers"]["seq"]) == (producer, seq)


class Auditor:
    def __init__(self, broker_url: str, database_url: str) -> None:
        self._settled = {"waiting_messages": 0, "held_messages": 0, "is_readable": broker_url.startswith("redis")}
        self._urls = {"PENSTOCK_BROKER_URL": broker_url, "PENSTOCK_DATABASE_URL": database_url}
        self._settings = Settings(broker_url=broker_url)

    def look(self, *words: str) -> dict[str, Any]:
        done = penstock("audit", "--json", *words, **self._urls)
        assert done.returncode in (0, 1, 3), done.stderr
        return {"exit": done.returncode, **json.loads(done.stdout)}

    def when_settled(self, *words: str) -> dict[str, Any]:
        """When nothing waits and every worker has said that it holds nothing; a slow one may be late with it."""
        until(self._is_settled)  # many looks here cost less than one command
        return until(lambda: (report := self.look(*words))["queue"] == self._settled and report)

    def _is_settled(self) -> bool:
        look = look_at_queue(self._settings)
        return {name: getattr(look, name) for name in self._settled} == self._settled

    def read(self, *words: str) -> str:
        return " ".join(penstock("audit", *words, **self._urls).stdout.split())


def gaps(producer: dict[str, Any]) -> list[tuple[int, int, str]]:
    return [(gap["first"], gap["last"], gap["state"]) for epoch in producer["epochs"] for gap in epoch["gaps"]]


def test_it_names_what_became_of_every_event(broker_url, database_url, new_worker):
    auditor, queue = Auditor(broker_url, database_url), Queue(broker_url)
    publish(broker_url, "lost", 30)
    publish(broker_url, "broken", 20)
    # Nothing is due before all have been published, so that no sender is fast enough to make room.
    publish(broker_url, "dropped", 15, max_events=10, batch_events=100, durability="memory")
    publish_and_be_killed(broker_url)
    messages = queue.take_all()
    (lost,) = [message for message in messages if is_of(message, "lost", 10)]
    for message in messages:
        if is_of(message, "broken", 0):
            message["body"] = "garbage"
    queue.put(*(message for message in messages if message is not lost))

    waiting = auditor.look()
    worker = new_worker()
    worker.start()
    until(lambda: count_told(database_url) == 65)
    young = auditor.when_settled("--grace", "3600")
    strict = auditor.when_settled("--grace", "0", "--silent-after", "0")
    found = {each["producer"]: each for each in strict["producers"]}
    text = auditor.read("--grace", "0", "--silent-after", "0")

    assert waiting["exit"] == 0
    assert waiting["queue"]["waiting_messages"] == len(messages) - 1
    if broker_url.startswith("redis"):
        queued = {each["producer"]: (each["queued"], gaps(each)) for each in waiting["producers"]}
        assert queued["lost"] == (20, [(10, 19, "pending")])
        assert (queued["broken"], queued["killed"]) == ((20, []), (10, []))
    else:
        assert waiting["producers"] == []  # what nobody has read, nobody can tell
    assert young["exit"] == 0
    assert {each["producer"]: each["missing"] for each in young["producers"]}["lost"] == 0

    assert strict["exit"] == 1
    assert {name: each["missing"] for name, each in found.items()} == {"lost": 10, "broken": 0, "dropped": 0, "killed": 0}
    assert gaps(found["lost"]) == [(10, 19, "missing")]
    assert found["broken"]["outcomes"] | {"stored": 10, "dead": 10} == found["broken"]["outcomes"]
    assert found["broken"]["without_letter"] == 0
    assert (found["dropped"]["sent"], found["dropped"]["dropped"]) == (15, {"buffer_full": 5})
    assert (found["killed"]["sent"], found["killed"]["outcomes"]["stored"]) == (10, 10)
    assert {name: each["unknown_tails"] for name, each in found.items() if each["unknown_tails"]} == {"killed": 1}
    epoch = found["lost"]["epochs"][0]["epoch"]
    assert f"missing: lost {epoch}: 10 to 19, 10 events published about" in text
    assert "unknown: killed" in text

    queue.put(lost, lost)
    until(lambda: count_told(database_url) >= 75)  # or 85, where they come in two batches
    after = auditor.when_settled("--grace", "0")
    outcomes = {each["producer"]: each["outcomes"]["stored"] for each in after["producers"]}
    assert (after["exit"], outcomes["lost"]) == (0, 30)


def count_told(database_url: str) -> int:
    """Events in the ledger, each as often as it was told."""
    with psycopg.connect(database_url) as connection:
        (row,) = connection.execute("SELECT coalesce(sum(upper(seqs) - lower(seqs)), 0)::int FROM penstock.ledger").fetchall()
    return int(row[0])


def test_it_does_without_the_broker(database_url):
    """Then no gap can be called missing, and nobody is told that none is."""
    urls = {"PENSTOCK_BROKER_URL": "redis://127.0.0.1:1/0", "PENSTOCK_DATABASE_URL": database_url}

    as_json = penstock("audit", "--json", **urls)
    for_people = penstock("audit", **urls)

    report = json.loads(as_json.stdout)
    assert (report["queue"], report["producers"]) == (None, [])
    assert "the broker does not say what waits" in report["broker_trouble"]
    assert "the broker does not say what waits" in " ".join(for_people.stdout.split())
    for done in (as_json, for_people):
        assert done.returncode == 3
        assert done.stderr.count("\n") == 1
        assert done.stderr == f"penstock: not proven: {report['doubt']}\n"
        assert "PENSTOCK_BROKER_URL" in done.stderr


@pytest.mark.rabbitmq
def test_what_may_wait_in_rabbitmq_is_in_doubt(rabbitmq_url, database_url):
    """The event came to the ledger's knowledge, and a message waits in which it may be."""
    publish(rabbitmq_url, "web", 1)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO penstock.producers (epoch, producer, high_water, is_closed, last_seen)"
            " VALUES (gen_random_uuid(), 'web', 5, true, now() - interval '1 hour')"
        )
    urls = {"PENSTOCK_BROKER_URL": rabbitmq_url, "PENSTOCK_DATABASE_URL": database_url}

    waiting = penstock("audit", "--json", **urls)
    Queue(rabbitmq_url).take_all()
    taken = penstock("audit", "--json", **urls)

    assert (waiting.returncode, json.loads(waiting.stdout)["producers"][0]["queued_or_missing"]) == (3, 5)
    assert "5 events are queued or missing" in waiting.stderr
    assert (taken.returncode, json.loads(taken.stdout)["doubt"], taken.stderr) == (1, None, "")
