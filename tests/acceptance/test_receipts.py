"""Read your writes: receipts and barriers against a real worker, and what they cost nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import redis

from penstock_producers import Producer, ProducerClosed, Receipt
from penstock_producers.transports import transport_for
from penstock_schemas.answer import new_address
from penstock_schemas.records.guardian import GuardianMetric
from penstock_schemas.records.translation import TranslationTask
from penstock_schemas.wire import QUEUE, Envelope, encode_event, new_epoch
from tests.acceptance.witness import Witness, until
from tests.servers.celery_worker import WorkerProcess
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


def is_listening() -> bool:
    return any(thread.name.endswith("-answers") for thread in threading.enumerate())


def test_a_receipt_says_how_its_event_ended(producer: Producer, worker: WorkerProcess, witness: Witness) -> None:
    old = datetime.now(UTC) - timedelta(days=1000)
    unwaited = producer.publish(task("unwaited"))
    assert producer.flush(LONG_S)
    until(lambda: witness.count_told() == 1)
    assert not is_listening()

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
