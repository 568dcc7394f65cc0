"""Read your writes: receipts and barriers against a real worker, and what they cost nobody."""

from __future__ import annotations

import ast
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
import redis
from celery import Celery
from celery.events.receiver import EventReceiver

from penstock_producers import Producer, Receipt
from penstock_producers.transports import transport_for
from penstock_schemas.answer import SeqRange, new_address
from penstock_schemas.records.guardian import GuardianMetric
from penstock_schemas.records.translation import TranslationTask
from penstock_schemas.wire import QUEUE, Envelope, encode_event, new_epoch
from tests.acceptance.witness import Witness, until
from tests.servers.celery_worker import Failpoints, WorkerProcess, worker_settings
from tests.servers.databases import PostgresServer
from tests.servers.rabbitmq import RabbitServer

pytestmark = pytest.mark.acceptance

#: Seconds in which a busy machine surely answers.
LONG_S = 120.0


@pytest.fixture
def producer(broker_url: str) -> Iterator[Producer]:
    with Producer(broker_url, name="receipts") as producer:
        yield producer


@pytest.fixture
def worker(new_worker: Callable[[], WorkerProcess]) -> WorkerProcess:
    worker = new_worker()
    worker.start()
    return worker


def task(task_id: str, **fields: Any) -> TranslationTask:
    return TranslationTask(task_id=task_id, session_id="s", **fields)


def publish_raw(producer: Producer, event: bytes) -> Receipt:
    """What no `publish` would let through."""
    outbox = producer._outbox
    return Receipt(outbox.epoch, outbox.accept(event), outbox.answers)


def is_listening(producer: Producer) -> bool:
    """A mailbox is open, or envelopes carry its address."""
    outbox = producer._outbox
    return outbox.answers._is_running or outbox.buffer.reply_to is not None


def test_a_receipt_says_how_its_event_ended(producer: Producer, worker: WorkerProcess, witness: Witness) -> None:
    old = datetime.now(UTC) - timedelta(days=1000)
    unwaited = producer.publish(task("unwaited"))
    assert producer.flush(LONG_S)
    until(lambda: witness.count_told() == 1)
    assert not is_listening(producer)

    newer = producer.publish(task("a", status="running"))
    assert newer.wait(LONG_S) == "stored"
    assert witness.query("SELECT status FROM translation.tasks WHERE task_id = 'a'") == [("running",)]
    older = producer.publish(task("a", status="pending"), occurred_at=old)
    invalid = publish_raw(producer, encode_event("translation.task", "upsert", 1, b"{}"))
    unknown_type = publish_raw(producer, encode_event("no.such", "upsert", 1, b"{}"))
    too_old = producer.publish(GuardianMetric(timestamp=old))
    outcomes = [receipt.wait(LONG_S) for receipt in (older, invalid, unknown_type, too_old, newer)]
    assert outcomes == ["superseded", "dead", "held", "expired", "stored"]
    # Its answer was never sent, for nobody waited: the ledger knows.
    assert unwaited.wait(LONG_S) == "stored"
    assert producer.barrier(LONG_S)


def test_a_wait_for_what_is_not_stored_times_out_and_may_be_asked_again(
    producer: Producer, worker: WorkerProcess, postgres_server: PostgresServer
) -> None:
    """The broker confirms, the database is away: nobody echoes the producer."""
    assert producer.publish(task("before")).wait(LONG_S) == "stored"
    postgres_server.stop()
    receipts = [producer.publish(task(f"t{number}")) for number in range(1_000)]
    assert producer.flush(LONG_S)
    assert receipts[0].wait(1.0) == "timeout"
    assert producer.barrier(0.1) is False
    postgres_server.start()
    assert producer.barrier(LONG_S)
    # Its answers went to somebody; the worker that gives the next ones is another.
    worker.restart()
    assert {receipt.wait(LONG_S) for receipt in receipts} == {"stored"}
    assert producer.publish(task("after")).wait(LONG_S) == "stored"


def test_many_threads_wait_for_what_nobody_answered(producer: Producer, worker: WorkerProcess, witness: Witness) -> None:
    """Nobody waited when the events were sent, and the answers that came to a mailbox are lost with it."""
    receipts = [producer.publish(task(f"t{number}")) for number in range(5_000)]
    until(lambda: witness.count_told() == 5_000, LONG_S)
    assert not is_listening(producer)
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda part: results.extend(receipt.wait(LONG_S) for receipt in part), args=(receipts[n::20],))
        for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    assert results == ["stored"] * 5_000
    assert producer.barrier(LONG_S)

    answers = producer._outbox.answers
    until(lambda: answers._address is not None and answers._mailbox is not None)
    if (mailbox := answers._mailbox) is not None and hasattr(mailbox, "_connection"):
        mailbox._connection.sock.shutdown(2)
    last = producer.publish(task("last"))
    assert last.wait(LONG_S) == "stored"


def test_flower_is_not_told_the_answers(valkey_url: str, database_url: str, tmp_path: Path) -> None:
    """Three thousand of them in one batch."""
    addresses = [new_address() for _ in range(3_000)]
    epoch = new_epoch()
    transport = transport_for(valkey_url, QUEUE, 30.0)
    for number, address in enumerate(addresses):
        event = encode_event("translation.task", "upsert", 1, task(f"t{number}").to_json())
        transport.send([Envelope("many", epoch, number, [event], reply_to=address)], lambda _envelope: None)
    transport.close()
    options: dict[str, object] = {"batch_max_events": 3_000, "batch_max_age_s": 60, "concurrency": 1}
    results: list[str] = []
    is_listening = threading.Event()

    class Listener(EventReceiver):  # type: ignore[misc]  # celery has no types
        def on_consume_ready(self, *_args: Any, **_kwargs: Any) -> None:
            is_listening.set()

    def note(event: dict[str, Any]) -> None:
        if "'ok'" not in event["result"]:  # the worker's look at the database, before its first batch
            results.append(event["result"])
            listener.should_stop = True

    app = Celery(broker=valkey_url, set_as_current=False)
    with app.connection_for_read() as connection:
        listener = Listener(connection, handlers={"task-succeeded": note}, app=app)
        thread = threading.Thread(target=listener.capture, kwargs={"timeout": LONG_S, "wakeup": False}, daemon=True)
        thread.start()
        assert is_listening.wait(LONG_S)
        environment = worker_settings(database_url, valkey_url, Failpoints(tmp_path, ""), options)
        worker = WorkerProcess("many", tmp_path, environment)
        try:
            worker.start()
            until(lambda: results, LONG_S)
            # The answers leave a moment later, after the ack.
            with redis.Redis.from_url(valkey_url) as client:
                until(lambda: client.exists(*addresses) == 3_000, LONG_S)
        finally:
            worker.clean_up()
        thread.join(LONG_S)
    (counts,) = [ast.literal_eval(result) for result in results]
    assert (counts.pop("stored"), list(counts)) == (3_000, ["in_blocks", "ms"])


@pytest.mark.rabbitmq
def test_an_alarm_of_the_broker_stops_no_ack(
    rabbitmq_url: str, rabbitmq_server: RabbitServer, database_url: str, tmp_path: Path
) -> None:
    """It blocks whoever publishes, as the worker does when it answers. What waits is stored and acknowledged all the same."""
    failpoints = Failpoints(tmp_path, "before_commit=wait")
    failpoints.arm("before_commit")
    environment = worker_settings(database_url, rabbitmq_url, failpoints, {"concurrency": 1})
    worker = WorkerProcess("alarmed", tmp_path, environment)
    producer = Producer(rabbitmq_url, name="alarm", batch_events=10, linger_s=10)
    producer._outbox.answers.watch(Silent())
    until(lambda: producer._outbox.buffer.reply_to is not None)
    receipts = [producer.publish(task(f"t{number}")) for number in range(2_000)]
    assert producer.flush(LONG_S)
    try:
        worker.start()  # before the alarm, in which Celery itself cannot start
        until(lambda: failpoints.has_struck("before_commit"), LONG_S)
        rabbitmq_server.limit_memory(1)
        until(rabbitmq_server.has_alarm)
        failpoints.release("before_commit")
        with psycopg.connect(database_url, autocommit=True) as connection:
            told = "SELECT coalesce(sum(upper(seqs) - lower(seqs)), 0) FROM penstock.ledger"
            until(lambda: connection.execute(told).fetchone() == (2_000,), LONG_S)
        # What is not acknowledged goes back into the queue when the worker ends.
        worker.kill()
        until(lambda: rabbitmq_server.waiting(rabbitmq_url) == 0, LONG_S)
        with psycopg.connect(database_url, autocommit=True) as connection:
            assert connection.execute(told).fetchone() == (2_000,)
    finally:
        rabbitmq_server.limit_memory()
        worker.clean_up()
    until(lambda: not rabbitmq_server.has_alarm())
    worker.start()
    try:
        assert receipts[0].wait(LONG_S) == "stored"
        assert producer.close()
    finally:
        worker.clean_up()


class Silent:
    """A listener that has nothing to ask: it keeps the address on every envelope."""

    def overdue(self) -> dict[UUID, list[SeqRange]]:
        return {}

    def settled(self, epoch: UUID, outcome: str, first: int, last: int) -> None:
        pass

    def unknown(self, epoch: UUID, first: int, last: int) -> None:
        pass
