"""What every source of deliveries promises, on both brokers, and what each adds of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
import redis
from amqp.exceptions import PreconditionFailed
from kombu.asynchronous.hub import Hub
from kombu.connection import Connection

from penstock_producers.transports import transport_for
from penstock_schemas.topology import dead_queue, queues
from penstock_schemas.wire import CONTENT_TYPE, QUEUE, Envelope
from penstock_worker.ingest.amqp_source import AmqpSource
from penstock_worker.ingest.message import Message, unwrap
from penstock_worker.ingest.redis_source import RedisSource
from penstock_worker.ingest.source import Delivery, Source
from penstock_worker.settings import Settings
from tests.producing import eventually
from tests.servers.valkey import ValkeyServer

EPOCH = UUID("0199a000-0000-7a00-9000-00000000000a")
#: For tests that wait for a lease to run out or to be renewed; elsewhere a machine that stands still must not cost one.
SHORT: dict[str, Any] = {"lease_s": 3.0}


class Loop:
    """A worker's event loop with one source in it."""

    def __init__(self, broker_url: str, name: str = "a", **settings: Any) -> None:
        self.hub = Hub()
        self.hub.timer.call_repeatedly(0.01, lambda: None)  # the loop never sleeps for longer
        self.deliveries: list[Delivery] = []
        self.room = 10**9
        chosen = Settings(broker_url=broker_url, **settings)
        self.source: Source = (
            RedisSource(chosen, self.hub.timer, owner=name)
            if broker_url.startswith("redis")
            else AmqpSource(chosen, self.hub.timer, self.hub)
        )

    def start(self) -> None:
        self.source.start(self.deliveries.extend, lambda: len(self.deliveries) < self.room)

    def until(self, holds: Callable[[], object], within_s: float = 60) -> None:
        deadline = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline, f"not within {within_s:.0f} s"
            self.hub.run_once()

    def receive(self, count: int) -> list[Delivery]:
        """Wait for deliveries, and take them out of the list."""
        self.until(lambda: len(self.deliveries) >= count)
        taken, self.deliveries[:] = self.deliveries[:count], self.deliveries[count:]
        return taken

    def assert_idle(self) -> None:
        """Nothing comes, however often the loop turns."""
        for _ in range(20):
            self.hub.run_once()
        assert numbers(self.deliveries) == []

    def close(self) -> None:
        self.source.close()
        self.hub.close()


@contextmanager
def looping(broker_url: str, name: str = "a", **settings: Any) -> Iterator[Loop]:
    loop = Loop(broker_url, name, **settings)
    try:
        loop.start()
        yield loop
    finally:
        loop.close()


@pytest.fixture
def loop(broker_url: str) -> Iterator[Loop]:
    with looping(broker_url) as loop:
        yield loop


def publish(broker_url: str, count: int, first: int = 0, size: int = 1) -> None:
    """Messages of one event each, numbered."""
    transport = transport_for(broker_url, QUEUE, 30)
    event = b'{"text":"%b"}' % (b"x" * size)
    transport.send([Envelope("p", EPOCH, first + n, [event]) for n in range(count)], lambda _: None)
    transport.close()


def opened(delivery: Delivery) -> Message:
    message = unwrap(delivery.raw)
    assert message is not None
    return message


def numbers(deliveries: Sequence[Delivery]) -> list[int]:
    return [opened(delivery).headers["seq"] for delivery in deliveries]


def popped(loop: Loop) -> list[Delivery]:
    """What one pop gives; the loop does not turn."""
    assert isinstance(loop.source, RedisSource)
    return loop.source._pop()


def source_of(loop: Loop) -> AmqpSource:
    assert isinstance(loop.source, AmqpSource)
    return loop.source


# -- both brokers --------------------------------------------------------------------------------------------------------------


def test_messages_come_in_their_order_with_what_they_hold(broker_url: str, loop: Loop) -> None:
    publish(broker_url, 300)
    deliveries = loop.receive(300)
    assert numbers(deliveries) == list(range(300))
    assert {(delivery.count, delivery.redeliveries) for delivery in deliveries} == {(1, 0)}
    assert opened(deliveries[7]).body == Envelope("p", EPOCH, 7, [b'{"text":"x"}']).body()
    assert opened(deliveries[7]).content_type == CONTENT_TYPE


def test_what_is_acknowledged_in_any_order_never_comes_again(broker_url: str, loop: Loop) -> None:
    publish(broker_url, 100)
    deliveries = loop.receive(100)
    loop.source.ack(deliveries[50:])
    loop.source.ack(deliveries[:20])
    loop.source.ack(deliveries[20:50])
    loop.close()
    with looping(broker_url, "b") as other:
        other.assert_idle()
        assert other.source.depth() == 0


def test_what_is_given_back_comes_again_first(broker_url: str, loop: Loop) -> None:
    publish(broker_url, 20)
    deliveries = loop.receive(20)
    loop.source.ack(deliveries[10:])
    loop.source.pause()
    loop.source.give_back(deliveries[:10])
    publish(broker_url, 5, first=20)
    loop.source.resume()
    assert numbers(loop.receive(15)) == [*range(10), *range(20, 25)]


def test_a_dead_workers_messages_come_to_another_as_suspects(broker_url: str) -> None:
    with looping(broker_url, **SHORT) as first:
        publish(broker_url, 20)
        first.source.ack(first.receive(20)[:5])
    with looping(broker_url, "b", **SHORT) as second:
        deliveries = second.receive(15)
        assert sorted(numbers(deliveries)) == list(range(5, 20))
        assert {delivery.redeliveries for delivery in deliveries} == {1}
        second.source.ack(deliveries)


def test_a_pause_stops_deliveries_and_acks_go_on(broker_url: str, loop: Loop) -> None:
    publish(broker_url, 10)
    deliveries = loop.receive(10)
    loop.source.pause()
    publish(broker_url, 10, first=10)
    loop.source.ack(deliveries)
    loop.assert_idle()
    loop.source.resume()
    assert numbers(loop.receive(10)) == list(range(10, 20))


def test_without_room_nothing_more_comes_until_there_is(broker_url: str) -> None:
    with looping(broker_url, prefetch_messages=10_000) as loop:
        loop.room = 1
        publish(broker_url, 3_000, size=2_000)
        loop.until(lambda: loop.deliveries)
        for _ in range(20):
            loop.hub.run_once()
        had = len(loop.deliveries)
        assert had <= 1_000  # what comes in one go
        loop.room = 10**9
        loop.source.wake()
        assert numbers(loop.receive(3_000)) == list(range(3_000))


def test_a_message_of_stock_kombu_is_read(broker_url: str, loop: Loop) -> None:
    with Connection(broker_url) as connection, connection.Producer() as producer:
        for body, encoding in ((b'{"v":1,"bytes":"\xc3\xbc"}', "binary"), ('{"v":1,"text":"ü"}', "utf-8")):
            headers = {"epoch": str(EPOCH), "seq": 5, "count": 4}
            options = {"content_type": CONTENT_TYPE, "content_encoding": encoding, "headers": headers}
            producer.publish(body, exchange="", routing_key=QUEUE, **options)
    deliveries = loop.receive(2)
    assert [opened(delivery).body for delivery in deliveries] == ['{"v":1,"bytes":"ü"}'.encode(), '{"v":1,"text":"ü"}'.encode()]
    assert [(d.count, opened(d).headers["seq"], opened(d).content_type) for d in deliveries] == [(4, 5, CONTENT_TYPE)] * 2


# -- Redis and Valkey ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url) as client:
        yield client


def test_what_is_given_back_is_fresh_unless_it_is_suspect(valkey_url: str, client: redis.Redis) -> None:
    with looping(valkey_url) as loop:
        publish(valkey_url, 2)
        seen = []
        for is_suspect in (False, True, False, True):
            deliveries = loop.receive(2)
            seen.append([delivery.redeliveries for delivery in deliveries])
            loop.source.give_back(deliveries[:1], is_suspect=is_suspect)
            loop.source.give_back(deliveries[1:])
            loop.until(lambda: len(loop.deliveries) == 2)
            loop.deliveries.sort(key=lambda delivery: opened(delivery).headers["seq"])
        assert seen == [[0, 0], [0, 0], [1, 0], [1, 0]]
        loop.source.ack(loop.receive(2))
    assert client.keys() == []


def test_leases_are_renewed_as_long_as_the_worker_lives(valkey_url: str, client: redis.Redis) -> None:
    with looping(valkey_url, **SHORT) as loop, looping(valkey_url, "b", **SHORT) as other:
        other.source.pause()
        publish(valkey_url, 3)
        deliveries = loop.receive(3)
        ends = min(score for _, score in client.zrange(f"{QUEUE}:leases", 0, -1, withscores=True))

        def is_well_past() -> bool:
            other.hub.run_once()  # which looks for leases that have run out
            return bool(time.time() * 1000 > ends + 500)

        loop.until(is_well_past)
        assert (client.llen(QUEUE), client.zcard(f"{QUEUE}:leases")) == (0, 3)
        loop.source.ack(deliveries)
    assert client.keys() == []


def test_what_is_abandoned_goes_back_when_its_lease_runs_out(valkey_url: str, client: redis.Redis) -> None:
    with looping(valkey_url, **SHORT) as loop:
        publish(valkey_url, 3)
        deliveries = loop.receive(3)
        loop.source.abandon(deliveries[:2])
        again = loop.receive(2)
        assert sorted(numbers(again)) == [0, 1]
        loop.source.ack([*deliveries[2:], *again])
    assert client.keys() == []


def test_an_ack_after_the_lease_ran_out_harms_nobody(valkey_url: str, client: redis.Redis) -> None:
    with looping(valkey_url, **SHORT) as loop:
        publish(valkey_url, 1)
        (old,) = loop.receive(1)
        loop.source.abandon([old])
        (again,) = loop.receive(1)
        loop.source.ack([old])
        assert client.hlen(f"{QUEUE}:leased") == 1
        loop.source.ack([again])
    assert client.keys() == []


def test_an_ack_that_does_not_get_through_is_sent_later(valkey_server: ValkeyServer, valkey_url: str) -> None:
    with looping(valkey_url) as loop:
        publish(valkey_url, 3)
        deliveries = loop.receive(3)
        loop.source.pause()
        valkey_server.stop()
        loop.source.ack(deliveries)
        valkey_server.start()
        with redis.Redis.from_url(valkey_url) as client:
            assert client.hlen(f"{QUEUE}:leased") == 3
            loop.source.resume()
            loop.until(lambda: client.hlen(f"{QUEUE}:leased") == 0)
            assert client.keys() == []


def test_a_full_server_is_drained(valkey_url: str, client: redis.Redis) -> None:
    publish(valkey_url, 500, size=1_000)
    try:
        client.config_set("maxmemory", 1)
        with pytest.raises(redis.ResponseError, match="maxmemory"):
            client.lpush(QUEUE, "one more")
        with looping(valkey_url) as loop:
            deliveries = loop.receive(500)
            loop.source.give_back(deliveries[:100])
            loop.source.ack(deliveries[100:])
            loop.source.ack(loop.receive(100))
        assert client.keys() == []
    finally:
        client.config_set("maxmemory", 0)


def test_a_pop_that_meets_long_messages_ends_soon(valkey_url: str, client: redis.Redis) -> None:
    """How many are taken together follows from the largest so far; what is over the bytes goes back in its order."""
    publish(valkey_url, 20)
    publish(valkey_url, 40, first=20, size=1024 * 1024)
    loop = Loop(valkey_url)
    loop.room = 1  # for one pop
    try:
        loop.start()
        loop.until(lambda: loop.deliveries)
        assert 20 < len(loop.deliveries) <= 20 + 4
        loop.room = 60
        loop.source.wake()
        loop.until(lambda: len(loop.deliveries) == 60)
        assert numbers(loop.deliveries) == list(range(60))
    finally:
        loop.close()


@pytest.mark.parametrize("name", ["leases", "leased", "redelivered"])
def test_a_key_of_another_type_loses_no_message(name: str, valkey_url: str, client: redis.Redis) -> None:
    publish(valkey_url, 20)
    client.lpush(f"{QUEUE}:{name}", "not ours")
    loop = Loop(valkey_url)
    try:
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            popped(loop)
    finally:
        loop.close()
    assert client.llen(QUEUE) == 20


def test_what_may_not_be_leased_goes_back(valkey_url: str, client: redis.Redis) -> None:
    publish(valkey_url, 20)
    before = client.lrange(QUEUE, 0, -1)
    client.acl_setuser("narrow", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-zadd"])
    loop = Loop(valkey_url.replace("redis://", "redis://narrow:x@"))
    try:
        with pytest.raises(redis.ResponseError):
            popped(loop)
        assert (client.lrange(QUEUE, 0, -1), client.hlen(f"{QUEUE}:leased")) == (before, 0)
    finally:
        loop.close()
        client.acl_deluser("narrow")


def test_equal_messages_are_each_delivered(valkey_url: str, client: redis.Redis) -> None:
    with looping(valkey_url) as loop:
        publish(valkey_url, 1)
        (first,) = loop.receive(1)
        client.lpush(QUEUE, first.raw.body, first.raw.body)
        deliveries = loop.receive(2)
        assert len({delivery.tag for delivery in [first, *deliveries]}) == 3
        loop.source.ack([first, *deliveries])
    assert client.keys() == []


def test_a_wrapping_that_is_none_is_delivered_all_the_same(valkey_url: str, client: redis.Redis) -> None:
    junk = [b"", b"hello", b"\xff\x00", b'{"count": "x"', b'{"count": 99999999999999999999}']
    client.lpush(QUEUE, *junk)
    with looping(valkey_url) as loop:
        deliveries = loop.receive(len(junk))
        assert [delivery.raw.body for delivery in deliveries] == junk
        loop.source.ack(deliveries)
    assert client.keys() == []


# -- RabbitMQ ------------------------------------------------------------------------------------------------------------------


@pytest.mark.rabbitmq
def test_what_rabbitmq_dead_lettered_is_consumed_too(rabbitmq_url: str) -> None:
    with looping(rabbitmq_url) as loop:
        with Connection(rabbitmq_url) as connection, connection.Producer() as producer:
            producer.publish(b"x", exchange="", routing_key=dead_queue(QUEUE), headers={"seq": 3}, content_encoding="binary")
        deliveries = loop.receive(1)
        assert numbers(deliveries) == [3]
        loop.source.ack(deliveries)


@pytest.mark.rabbitmq
def test_a_channel_that_the_broker_closes_takes_its_tags_along(rabbitmq_url: str) -> None:
    with looping(rabbitmq_url) as loop:
        publish(rabbitmq_url, 10)
        old = loop.receive(10)
        source_of(loop)._channel.basic_ack(999)
        with pytest.raises(PreconditionFailed):
            loop.until(lambda: False)
        loop.start()
        again = loop.receive(10)
        loop.source.ack(old)
        loop.source.close()
        loop.start()
        assert sorted(numbers(loop.receive(10))) == list(range(10))
        assert len(again) == 10


@pytest.mark.rabbitmq
def test_acks_of_a_lost_connection_are_passed_over(rabbitmq_url: str) -> None:
    with looping(rabbitmq_url) as loop:
        publish(rabbitmq_url, 10)
        old = loop.receive(10)
        loop.source.close()
        loop.start()
        again = loop.receive(10)
        assert sorted(numbers(again)) == list(range(10))
        loop.source.ack(old)
        loop.source.give_back(old)
        loop.source.ack(again)
    with Connection(rabbitmq_url) as connection, connection.channel() as channel:
        assert [channel.queue_declare(name, passive=True).message_count for name in queues(QUEUE)] == [0, 0]


@pytest.mark.rabbitmq
def test_what_comes_while_it_disconnects_goes_back(rabbitmq_url: str) -> None:
    with Connection(rabbitmq_url) as connection, connection.channel() as channel:
        with looping(rabbitmq_url) as loop:
            publish(rabbitmq_url, 50)
            # All of it is in the connection now, and nobody has read it.
            eventually(lambda: channel.queue_declare(QUEUE, passive=True).message_count == 0)
            loop.source.close()
            assert numbers(loop.deliveries) == []
        eventually(lambda: channel.queue_declare(QUEUE, passive=True).message_count == 50)


@pytest.mark.rabbitmq
def test_a_worker_has_no_more_messages_than_its_prefetch(rabbitmq_url: str) -> None:
    with looping(rabbitmq_url, prefetch_messages=7) as loop:
        publish(rabbitmq_url, 20)
        first = loop.receive(7)
        loop.assert_idle()
        loop.source.ack(first)
        assert numbers(loop.receive(7)) == list(range(7, 14))
