"""
A real worker on a queue of bad input: each event ends, each message is accounted for, no process ends, and good producers
beside it have all their events stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import amqp
import psycopg
import pytest
import redis
from kombu.connection import Connection

from penstock_schemas.topology import queues
from penstock_schemas.wire import CONTENT_TYPE, QUEUE
from penstock_worker.ingest.message import Message, RawMessage, unwrap
from tests.acceptance.witness import Witness, until
from tests.bad_input.case import Case, envelope, job, new_epoch, wrap
from tests.bad_input.corpus import CLASSES, ON_REDIS_ONLY
from tests.bad_input.mutate import Mutant, mutants
from tests.bad_input.property_cases import odd_properties
from tests.integration.test_bad_input import is_readable
from tests.servers.celery_worker import WorkerProcess

pytestmark = pytest.mark.acceptance

#: Mutated messages by broker: RabbitMQ has no fast way to publish so many, and what is in them is read by the same code.
MUTANTS = {"redis": 100_000, "rabbitmq": 5_000}
#: Messages in one round trip, and good events published after each of them.
CHUNK, GOOD = 2_000, 100
REASONS = {
    *(("dead", reason) for reason in ("not_json", "invalid", "invalid_envelope", "nul_character", "too_deep")),
    *(("dead", "not_a_message"), ("held", "unknown_type"), ("held", "unknown_envelope_version"), ("held", "clock_ahead")),
    ("held", "no_partition_yet"),
}


class Queue:
    """The queue as a producer of anything sees it."""

    def __init__(self, url: str) -> None:
        self.is_redis = url.startswith("redis")
        self._redis = redis.Redis.from_url(url) if self.is_redis else None
        self._connection = None if self.is_redis else Connection(url)
        self._channel: Any = None
        if self._connection:
            self._channel = self._connection.channel()
            for name, arguments in queues(QUEUE).items():
                self._channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)

    def close(self) -> None:
        for connection in (self._redis, self._connection):
            if connection is not None:
                connection.close()

    def put(self, messages: Iterable[RawMessage]) -> None:
        """As they are: on Redis in their wrapping, on RabbitMQ with properties."""
        if self._redis is not None:
            self._redis.lpush(QUEUE, *[message.body for message in messages])
            return
        for message in messages:
            properties = {"content_type": message.content_type, "application_headers": message.headers, "delivery_mode": 2}
            self.publish(amqp.Message(message.body, **properties))

    def publish(self, message: amqp.Message) -> None:
        """On RabbitMQ."""
        self._channel.basic_publish(message, routing_key=QUEUE)

    def publish_over_an_odd_route(self, message: amqp.Message) -> None:
        """On RabbitMQ, with a routing key that is no UTF-8."""
        self._channel.queue_bind(QUEUE, "amq.fanout")
        self._channel.basic_publish(message, exchange="amq.fanout", routing_key=b"\xff\xfe")


@pytest.fixture
def queue(broker_url: str) -> Iterator[Queue]:
    queue = Queue(broker_url)
    yield queue
    queue.close()


@pytest.fixture
def worker(new_worker: Callable[[], WorkerProcess], worker_options: dict[str, object]) -> WorkerProcess:
    """So many equal letters would be held, which is for bad deploys and not what is asked here."""
    worker_options.update(dead_letter_rate_per_minute=10**9, batch_max_events=1_000)
    worker = new_worker()
    worker.start()
    return worker


def processes(worker: WorkerProcess) -> list[int]:
    return [worker.pid, *sorted(child.pid for child in worker.children())]


def chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def test_the_handwritten_corpus(queue: Queue, worker: WorkerProcess, witness: Witness) -> None:
    before = processes(worker)
    cases = [case for name, make in CLASSES.items() if queue.is_redis or name not in ON_REDIS_ONLY for case in make()]
    for chunk in chunks(cases, 200):
        for part in chunks(chunk, 20):  # some are of eight megabytes
            queue.put(case.on_redis() if queue.is_redis else case.on_rabbitmq() for case in part)
        witness.publish(GOOD)
    expected = letters_of(cases)
    until(lambda: witness.reasons().total() >= expected.total(), within_s=300)
    witness.wait_until_told(300)
    until(lambda: numbered_ends(witness).total() >= numbered(cases).total() + len(witness.tasks), within_s=300)

    assert processes(worker) == before
    assert witness.reasons() == expected
    assert numbered_ends(witness) == numbered(cases) + Counter(stored=len(witness.tasks))
    assert witness.outcomes() == {"stored": len(witness.tasks)}
    assert_letters_can_be_read(witness)


@pytest.mark.rabbitmq
@pytest.mark.parametrize("broker_url", ["rabbitmq"], indirect=True)
def test_properties_that_python_cannot_read(queue: Queue, worker: WorkerProcess, witness: Witness) -> None:
    """They would end the worker, and the next one that gets the message; here the event beside each of them is stored."""
    before = processes(worker)
    messages = dict(odd_properties())
    for message in messages.values():
        queue.publish(message)
    queue.publish_over_an_odd_route(amqp.Message(envelope(job("a route that is no UTF-8"), epoch=new_epoch())))
    witness.publish(GOOD)
    witness.wait_until_told(300)
    expected = {*messages, "a route that is no UTF-8"}
    until(lambda: {key for (key,) in witness.query("SELECT id FROM scheduler.jobs")} == expected, within_s=300)
    assert processes(worker) == before
    assert witness.outcomes() == {"stored": GOOD}
    assert witness.reasons() == {}
    until(lambda: witness.left_in_queue() == 0)


def letters_of(cases: list[Case]) -> Counter[tuple[str, str]]:
    return sum((Counter(case.letters) for case in cases), Counter())


def numbered(cases: list[Case]) -> Counter[str]:
    """What the ledger must tell of the cases."""
    return sum((Counter(case.ends) for case in cases if case.is_numbered), Counter())


def numbered_ends(witness: Witness) -> Counter[str]:
    """What it tells. Two cases may have one key; which of them is superseded depends on the order."""
    told = witness.query(
        "SELECT CASE outcome WHEN 'superseded' THEN 'stored' ELSE outcome END, sum(upper(seqs) - lower(seqs)) "
        "FROM penstock.ledger GROUP BY 1"
    )
    return Counter({outcome: int(count) for outcome, count in told})


def assert_letters_can_be_read(witness: Witness) -> None:
    details = [detail for (detail,) in witness.query("SELECT DISTINCT detail FROM penstock.dead_letters")]
    assert [detail for detail in details if not is_readable(detail)] == []


def test_mutated_envelopes(queue: Queue, worker: WorkerProcess, witness: Witness) -> None:
    before = processes(worker)
    count = MUTANTS["redis" if queue.is_redis else "rabbitmq"]
    names: dict[str, str] = {}
    for chunk in chunks(mutants(7, count), CHUNK):
        messages = [(mutant, travelling(mutant, queue)) for mutant in chunk]
        queue.put(message for _, message in messages)
        names |= {mutant.epoch: letter_id(message) for mutant, message in messages}
        witness.publish(GOOD)
    assert len(names) == count
    witness.wait_until_told(600)
    until(lambda: not unaccounted(witness, names), within_s=600)

    assert processes(worker) == before
    assert witness.outcomes() == {"stored": len(witness.tasks)}
    assert witness.reasons().keys() <= REASONS
    assert {reason for _, reason in witness.reasons()} >= {"not_json", "invalid", "invalid_envelope", "unknown_type"}
    assert_letters_can_be_read(witness)
    assert letters_that_the_ledger_denies(witness) == []


def travelling(mutant: Mutant, queue: Queue) -> RawMessage:
    if queue.is_redis:
        return RawMessage(wrap(mutant.body, mutant.headers))
    return RawMessage(mutant.body, CONTENT_TYPE, {name: value for name, value in mutant.headers.items() if is_in_amqp(value)})


def is_in_amqp(value: object) -> bool:
    """Whether a client can send it in a table: whole numbers end with int64, and texts are UTF-8."""
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return "\ud800" not in str(value)


def letter_id(message: RawMessage) -> str:
    """Under which a message is found that told nothing of its producer."""
    return str((unwrap(message) or Message(message.body)).id)


def unaccounted(witness: Witness, names: dict[str, str]) -> set[str]:
    """The epochs of messages that have left no trace; asked with few words first, for they are many."""
    ((epochs, letters),) = witness.query(
        "SELECT (SELECT count(*) FROM penstock.producers), (SELECT count(*) FROM penstock.dead_letters WHERE epoch IS NULL)"
    )
    if epochs + letters < len(names):
        return set(names)
    known = {str(epoch) for (epoch,) in witness.query("SELECT epoch FROM penstock.producers")}
    lettered = {str(name) for (name,) in witness.query("SELECT id FROM penstock.dead_letters WHERE epoch IS NULL")}
    return {epoch for epoch, name in names.items() if epoch not in known and name not in lettered}


def letters_that_the_ledger_denies(witness: Witness) -> list[tuple[Any, ...]]:
    """Letters with a number that has not ended as they say; a heartbeat that is broken has a letter and no number."""
    with psycopg.connect(witness._database_url) as connection:
        return connection.execute(
            "SELECT l.id, l.epoch, l.seq, l.state FROM penstock.dead_letters AS l JOIN penstock.producers AS p USING (epoch) "
            "WHERE p.high_water > l.seq AND NOT EXISTS ("
            "SELECT FROM penstock.ledger AS r WHERE r.epoch = l.epoch AND r.seqs @> l.seq AND r.outcome = l.state) LIMIT 10"
        ).fetchall()
