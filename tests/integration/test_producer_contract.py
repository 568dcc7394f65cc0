"""One contract for every way to publish: the in-memory twin, Valkey and RabbitMQ, read back by stock kombu."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import Connection, Queue

from penstock_producers import Producer
from penstock_producers.testing import MemoryProducer
from penstock_schemas.wire import CONTENT_TYPE, MAX_RECORD_BYTES, QUEUE
from tests.producing import eventually, in_child
from tests.records import Pair
from tests.servers.rabbitmq import RabbitServer
from tests.servers.valkey import ValkeyServer

# Python 3.12 warns at every fork under threads; that it is safe is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

QUICK: dict[str, Any] = {"timeout_s": 20.0, "retry_min_s": 0.01, "retry_max_s": 0.1}


@dataclass
class Received:
    body: dict[str, Any]
    headers: dict[str, Any]
    content_type: str


@dataclass
class Broker:
    """A broker that a test may take away, and what arrived there."""

    url: str
    server: ValkeyServer | RabbitServer
    received: list[Received] = field(default_factory=list)

    def producer(self, **options: Any) -> Producer:
        return Producer(self.url, **{"name": "shop", **QUICK, **options})

    def stop(self) -> None:
        # In an orderly way: what a SIGKILL takes from the broker itself (Valkey what it had not written to its file, RabbitMQ
        # 3.10 a quorum queue made in the last seconds) is not the producer's to keep.
        self.server.stop()

    def start(self) -> None:
        self.server.start()

    def freeze(self) -> None:
        self.server.pause()

    def thaw(self) -> None:
        self.server.resume()

    def read(self) -> list[Received]:
        """Everything that is there now: asked message by message, so that nobody has to wait until no more comes."""
        with Connection(self.url) as connection, connection.channel() as channel:
            queue = Queue(QUEUE, channel=channel, no_declare=True)
            while (message := queue.get(no_ack=True)) is not None:
                headers = {name: value for name, value in message.headers.items() if name != "x-delivery-count"}
                self.received.append(Received(json.loads(message.body), headers, message.content_type))
        return self.received

    def close_connections(self) -> int:
        if isinstance(self.server, RabbitServer):
            return len(self.server.close_connections())
        with redis.Redis.from_url(self.url) as client:
            return client.client_kill_filter(_type="normal", skipme=True)


class Twin(Broker):
    def __init__(self) -> None:
        self.made: list[MemoryProducer] = []

    def producer(self, **options: Any) -> Producer:
        producer = MemoryProducer(**{"name": "shop", "linger_s": 0.05, **QUICK, **options})
        self.made.append(producer)
        return producer

    def stop(self) -> None:
        for producer in self.made:
            producer.transport.is_away = True

    def start(self) -> None:
        for producer in self.made:
            producer.transport.is_away = False

    freeze, thaw = stop, start

    def read(self) -> list[Received]:
        envelopes = [envelope for producer in self.made for envelope in producer.transport.envelopes]
        return [Received(json.loads(envelope.body()), envelope.headers(), CONTENT_TYPE) for envelope in envelopes]

    def close_connections(self) -> int:
        return 1


@pytest.fixture(params=["twin", "valkey", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def broker(request: pytest.FixtureRequest) -> Broker:
    if request.param == "twin":
        return Twin()
    return Broker(request.getfixturevalue(f"{request.param}_url"), request.getfixturevalue(f"{request.param}_server"))


def pairs(count: int, tenant: str = "a") -> list[Pair]:
    return [Pair(tenant=tenant, number=number) for number in range(count)]


def seqs(received: list[Received]) -> list[int]:
    return [message.body["seq"] + i for message in received for i in range(len(message.body["events"]))]


def test_what_arrives_is_what_was_published(broker: Broker) -> None:
    with broker.producer(linger_s=30) as producer:  # one message, however slow the machine is
        receipt = producer.publish(Pair(tenant='ä\n"', number=1, text="x" * 100_000))
        producer.delete(Pair, "a", 2)
        assert producer.flush(30)
    epoch = str(receipt.epoch)
    message, last = broker.read()
    versions = [event.pop("version") for event in message.body["events"]]
    assert versions[0] < versions[1]
    assert message == Received(
        {
            "v": 1,
            "producer": "shop",
            "epoch": epoch,
            "seq": 0,
            "dropped": [],
            "reply_to": None,
            "events": [
                {"type": "lab.pair", "op": "upsert", "data": {"tenant": 'ä\n"', "number": 1, "text": "x" * 100_000}},
                {"type": "lab.pair", "op": "delete", "data": {"tenant": "a", "number": 2}},
            ],
        },
        {"v": 1, "producer": "shop", "epoch": epoch, "seq": 0, "count": 2},
        CONTENT_TYPE,
    )
    assert (last.body["seq"], last.body["events"], last.body["closed"]) == (2, [], True)


def test_many_arrive_once_and_in_order(broker: Broker) -> None:
    with broker.producer(batch_events=7) as producer:
        producer.publish_many(pairs(1_000))
        assert producer.flush(30)
        status = producer.status()
        assert (status.confirmed, status.pending_writes, status.failures) == (1_000, 0, 0)
    received = broker.read()
    assert seqs(received) == list(range(1_000))
    numbers = [event["data"]["number"] for message in received for event in message.body["events"]]
    assert numbers == list(range(1_000))
    assert max(len(message.body["events"]) for message in received) == 7


def test_the_largest_record_arrives(broker: Broker) -> None:
    room = MAX_RECORD_BYTES - len(Pair(tenant="a", number=1, text="").to_json())
    with broker.producer(timeout_s=20) as producer:
        producer.publish(Pair(tenant="a", number=1, text="y" * room))
        assert producer.flush(30)
    assert len(broker.read()[0].body["events"][0]["data"]["text"]) == room


def test_parent_and_child_share_no_connection(broker: Broker) -> None:
    with broker.producer(linger_s=0) as producer:
        producer.publish_many(pairs(3))
        assert producer.flush(30)
        before = sockets()

        def child() -> list[Any]:
            inherited = sorted(before & sockets())
            flushed = [producer.publish_many(pairs(2, "child"))[0].seq, producer.flush(30), producer.close(30)]
            return [inherited, *flushed]

        for _ in range(2):
            assert in_child(child) == [[], 0, True, True]
            producer.publish(pairs(1)[0])
            assert producer.flush(30)
        assert producer.status().failures == 0
    if isinstance(broker, Twin):
        return  # what the child published stayed in the child
    by_epoch: dict[str, list[int]] = {}
    for message in broker.read():
        by_epoch.setdefault(message.body["epoch"], []).extend(seqs([message]))
    assert sorted(by_epoch.values()) == [[0, 1], [0, 1], [0, 1, 2, 3, 4]]


def sockets() -> set[str]:
    """Sockets of this process."""
    targets = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one that this loop reads is gone again
            targets.add(str(descriptor.readlink()))
    return {target for target in targets if target.startswith("socket:")}


def test_an_outage_delays_everything_and_costs_only_what_had_no_room(broker: Broker) -> None:
    with broker.producer(max_events=500, durability="memory") as producer:
        producer.publish_many(pairs(3))
        assert producer.flush(30)
        broker.stop()
        slowest = max(timed(lambda: producer.publish(Pair(tenant="a", number=1))) for _ in range(600))
        assert slowest < 5  # it waits for nobody; how fast it is, test_broker_away measures
        eventually(lambda: producer.status().failures > 1)
        status = producer.status()
        assert (status.pending_writes, status.dropped) == (500, {"buffer_full": 100})
        assert status.last_error
        assert "\n" not in status.last_error
        broker.start()
        assert producer.flush(30)
        assert (producer.status().failures, producer.status().last_error) == (0, None)
    received = broker.read()
    assert sorted(set(seqs(received))) == list(range(503))
    parts = [part for message in received for part in message.body["dropped"]]
    assert {seq for first, last, _ in parts for seq in range(first, last + 1)} == set(range(503, 603))
    assert {reason for *_, reason in parts} == {"buffer_full"}
    assert (received[-1].body["seq"], received[-1].body["closed"]) == (603, True)


def test_a_broker_that_freezes_holds_up_nobody(broker: Broker) -> None:
    with broker.producer(timeout_s=2) as producer:
        producer.publish(Pair(tenant="a", number=0))
        assert producer.flush(30)
        broker.freeze()
        try:
            producer.publish_many(pairs(5))
            eventually(lambda: producer.status().failures)
            impatient = broker.producer(timeout_s=20, durability="memory")
            if isinstance(broker, Twin):
                broker.freeze()
            impatient.publish_many(pairs(5))
            assert timed(lambda: impatient.close(0.5)) < 15  # the transport waits for 20
            assert impatient.status().dropped == {"close_deadline": 5}
        finally:
            broker.thaw()
        assert producer.flush(30)
        epoch = str(producer.status().epoch)
    received = [message for message in broker.read() if message.body["epoch"] == epoch]
    assert sorted(set(seqs(received))) == list(range(6))


def test_a_connection_that_the_broker_closed_costs_nothing(broker: Broker) -> None:
    with broker.producer(linger_s=0) as producer:
        producer.publish(Pair(tenant="a", number=0))
        assert producer.flush(30)
        eventually(broker.close_connections)
        producer.publish(Pair(tenant="a", number=1))
        assert producer.flush(30)
    assert sorted(set(seqs(broker.read()))) == [0, 1]


def test_a_program_that_ends_after_its_first_event_has_sent_it(
    broker_url: str, broker_server: ValkeyServer | RabbitServer
) -> None:
    """Nothing was connected by then; the sender does it while the interpreter shuts down, when modules can fail to import."""
    code = (
        "import sys; from penstock_producers import Producer; from tests.records import Pair;"
        "Producer(sys.argv[1], exit_deadline_s=60).publish(Pair(tenant='a', number=1))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [".", *sys.path]))}
    subprocess.run([sys.executable, "-c", code, broker_url], check=True, timeout=120, env=environment)
    received = Broker(broker_url, broker_server).read()
    assert (seqs(received), received[-1].body["closed"]) == ([0], True)


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
