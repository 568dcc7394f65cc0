"""Durability "journal" with a real worker: not even a wiped broker and a killed producer lose an event."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from kombu import Connection

from penstock_producers import Producer
from penstock_producers.spool.listing import list_spools
from penstock_schemas.records.translation import TranslationTask
from penstock_schemas.wire import QUEUE
from tests.acceptance.witness import Witness, until
from tests.servers.celery_worker import WorkerProcess

pytestmark = pytest.mark.acceptance

LONG_S = 120.0

#: Publishes, has all of it confirmed by the broker, publishes more and waits to be killed.
PROGRAM = """
import sys
from penstock_producers import Producer
from penstock_schemas.records.translation import TranslationTask

def publish(first, last):
    for number in range(first, last):
        producer.publish(TranslationTask(task_id=str(number), session_id="s", status="running"))

producer = Producer(sys.argv[1], name="killed", durability="journal")
publish(0, 300)
assert producer.flush(120)
publish(300, 320)
print("published", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def killed(broker_url: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, broker_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        yield process
        process.kill()


def wipe(broker_url: str) -> None:
    """What a lost disk takes from a broker."""
    if broker_url.startswith("redis"):
        with redis.Redis.from_url(broker_url) as client:
            client.flushall()
        return
    with Connection(broker_url) as connection, connection.channel() as channel:
        channel.queue_purge(QUEUE)


def test_a_killed_producer_and_a_wiped_broker_lose_nothing(
    broker_url: str,
    killed: subprocess.Popen[bytes],
    new_worker: Callable[[], WorkerProcess],
    witness: Witness,
    spool_folder: Path,
) -> None:
    assert killed.stdout is not None
    assert killed.stdout.readline() == b"published\n"
    killed.kill()
    killed.wait(LONG_S)
    wipe(broker_url)
    new_worker().start()
    with Producer(broker_url, name="next") as producer:
        assert producer.sync(LONG_S)
        assert producer.await_receipts(LONG_S)
        assert producer.status().adopted == 320
    assert witness.count_rows() == 320
    assert list_spools(spool_folder) == []


def test_a_living_producer_sends_again_what_the_broker_lost(
    broker_url: str, new_worker: Callable[[], WorkerProcess], witness: Witness
) -> None:
    with Producer(broker_url, name="alive", durability="journal") as producer:
        producer.publish_many(TranslationTask(task_id=str(number), session_id="s") for number in range(100))
        assert producer.flush(LONG_S)
        wipe(broker_url)
        new_worker().start()
        producer.publish(TranslationTask(task_id="after", session_id="s"))
        until(lambda: producer.status().unreceipted == 0)
    assert witness.count_rows() == 101
