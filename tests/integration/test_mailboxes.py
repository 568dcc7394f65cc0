"""From a worker's source to a producer's mailbox, on both brokers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from kombu.asynchronous.hub import Hub

from penstock_producers import TransportError
from penstock_producers.transports import Mailbox, broker_for
from penstock_schemas.answer import is_address, new_address
from penstock_schemas.wire import QUEUE
from penstock_worker.ingest.amqp_answers import AmqpAnswers
from penstock_worker.ingest.amqp_source import AmqpSource
from penstock_worker.ingest.answer_skip import SKIP_S
from penstock_worker.ingest.answers import AddressedAnswer
from penstock_worker.ingest.redis_source import RedisSource
from penstock_worker.ingest.source import Source
from penstock_worker.settings import Settings
from tests.producing import Clock, in_child
from tests.servers.rabbitmq import RabbitServer
from tests.servers.valkey import ValkeyServer

WITHIN_S = 60


@pytest.fixture
def source(broker_url: str) -> Iterator[Source]:
    """One that consumes nothing: answering needs no start."""
    hub, settings = Hub(), Settings(broker_url=broker_url)
    is_redis = broker_url.startswith("redis")
    source: Source = RedisSource(settings, hub.timer, "a") if is_redis else AmqpSource(settings, hub.timer, hub)
    yield source
    source.close()
    hub.close()


@pytest.fixture
def mailbox(broker_url: str) -> Iterator[Mailbox]:
    mailbox = broker_for(broker_url, QUEUE, 5.0).mailbox()
    yield mailbox
    mailbox.close()


def connect(mailbox: Mailbox) -> str:
    mailbox.receive(0.01)
    assert mailbox.address
    return mailbox.address


def receive(mailbox: Mailbox, count: int) -> list[bytes]:
    lines: list[bytes] = []
    deadline = time.monotonic() + WITHIN_S
    while len(lines) < count:
        assert time.monotonic() < deadline, f"{len(lines)} of {count} answers came"
        lines += mailbox.receive(0.5)
    return lines


def is_there(mailbox: Mailbox) -> bool:
    try:
        mailbox.receive(0.1)
    except TransportError:
        return False
    return True


def until_broken(mailbox: Mailbox) -> None:
    until(lambda: not is_there(mailbox))


def test_answers_arrive_in_order(source: Source, mailbox: Mailbox) -> None:
    address = connect(mailbox)
    assert is_address(address)
    lines = [f"line {number}" for number in range(2_500)]
    source.answer([AddressedAnswer(address, line) for line in lines])
    assert receive(mailbox, len(lines)) == [line.encode() for line in lines]
    assert mailbox.receive(0.01) == []


def test_an_answer_to_nobody_disturbs_nobody(source: Source, mailbox: Mailbox) -> None:
    address = connect(mailbox)
    source.answer([AddressedAnswer(new_address(), "lost"), AddressedAnswer(address, "found")])
    assert receive(mailbox, 1) == [b"found"]


def test_a_silent_mailbox_is_bounded_in_time(mailbox: Mailbox) -> None:
    connect(mailbox)
    began = time.monotonic()
    assert mailbox.receive(0.05) == []
    assert time.monotonic() - began < WITHIN_S


def test_after_a_goodbye_it_is_another_address(source: Source, mailbox: Mailbox) -> None:
    before = connect(mailbox)
    mailbox.close()
    address = connect(mailbox)
    assert address != before
    source.answer([AddressedAnswer(address, "here"), AddressedAnswer(before, "there")])
    assert receive(mailbox, 1) == [b"here"]


def test_on_redis_a_broker_that_is_away_is_an_error_of_the_transport(
    valkey_url: str, valkey_server: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    source = RedisSource(Settings(broker_url=valkey_url), Hub().timer, "a")
    mailbox = broker_for(valkey_url, QUEUE, 5.0).mailbox()
    address = connect(mailbox)
    source.answer([AddressedAnswer(address, "before")])
    assert receive(mailbox, 1) == [b"before"]
    valkey_server.stop()
    until_broken(mailbox)
    # To the worker it is a line in the log, at most one in a while.
    for _ in range(3):
        source.answer([AddressedAnswer(address, "lost")])
    assert [record.message.split(",")[0] for record in caplog.records if record.levelname == "WARNING"] == [
        f"producers are not answered for {SKIP_S:.0f} s"
    ]
    valkey_server.start()
    until(lambda: is_there(mailbox))
    assert mailbox.address == address
    mailbox.close()
    source.close()


def test_a_forked_child_leaves_its_parents_mailbox_alone(source: Source, mailbox: Mailbox) -> None:
    address = connect(mailbox)

    def forget() -> bool:
        mailbox.forget()
        return True

    assert in_child(forget)
    source.answer([AddressedAnswer(address, "still here")])
    assert receive(mailbox, 1) == [b"still here"]


def test_on_redis_answers_that_nobody_reads_go_by_themselves(valkey_url: str) -> None:
    source, address = RedisSource(Settings(broker_url=valkey_url), Hub().timer, "a"), new_address()
    for _ in range(3):
        source.answer([AddressedAnswer(address, str(number)) for number in range(6_000)])
    with redis.Redis.from_url(valkey_url) as client:
        assert client.llen(address) == 10_000
        assert client.lindex(address, -1) == b"5999"
        assert 0 < client.pttl(address) <= 60_000  # type: ignore[operator]
    source.close()


def test_on_redis_an_ended_mailbox_leaves_no_key(valkey_url: str) -> None:
    mailbox = broker_for(valkey_url, QUEUE, 5.0).mailbox()
    address = connect(mailbox)
    with redis.Redis.from_url(valkey_url) as client:
        client.rpush(address, "late")
        mailbox.close()
        assert client.keys("*") == []


@pytest.mark.rabbitmq
def test_on_rabbitmq_an_ended_mailbox_leaves_no_queue(rabbitmq_url: str, rabbitmq_server: RabbitServer) -> None:
    mailbox = broker_for(rabbitmq_url, QUEUE, 5.0).mailbox()
    connect(mailbox)
    vhost = rabbitmq_url.rpartition("/")[2]
    assert len(rabbitmq_server.call("GET", f"/api/queues/{vhost}")) == 1
    mailbox.close()
    assert rabbitmq_server.call("GET", f"/api/queues/{vhost}") == []


@pytest.mark.rabbitmq
def test_on_rabbitmq_a_lost_connection_is_another_address(
    rabbitmq_url: str, rabbitmq_server: RabbitServer, caplog: pytest.LogCaptureFixture
) -> None:
    mailbox, clock = broker_for(rabbitmq_url, QUEUE, 5.0).mailbox(), Clock()
    answers = AmqpAnswers(rabbitmq_url, clock)
    before = connect(mailbox)
    answers.send([AddressedAnswer(before, "before")])
    assert receive(mailbox, 1) == [b"before"]
    closed: set[str] = set()

    def are_closed() -> bool:
        closed.update(rabbitmq_server.close_connections())
        return len(closed) >= 2

    until(are_closed)
    until_broken(mailbox)
    assert mailbox.address is None
    address = connect(mailbox)
    assert address != before

    def is_noticed() -> bool:
        answers.send([AddressedAnswer(before, "lost")])
        return any("producers are not answered" in record.message for record in caplog.records)

    until(is_noticed)
    clock.now += SKIP_S
    answers.send([AddressedAnswer(address, "after")])
    assert receive(mailbox, 1) == [b"after"]
    answers.close()
    mailbox.close()


@pytest.mark.rabbitmq
def test_on_rabbitmq_an_alarm_skips_answers_and_holds_nobody(
    rabbitmq_url: str, rabbitmq_server: RabbitServer, caplog: pytest.LogCaptureFixture
) -> None:
    mailbox, clock = broker_for(rabbitmq_url, QUEUE, 5.0).mailbox(), Clock()
    address = connect(mailbox)
    answers = AmqpAnswers(rabbitmq_url, clock)
    answers.send([AddressedAnswer(address, "before")])
    assert receive(mailbox, 1) == [b"before"]
    rabbitmq_server.limit_memory(1)
    try:
        until(rabbitmq_server.has_alarm)
        longest_s = 0.0
        deadline = time.monotonic() + WITHIN_S
        while not any("blocks publishers" in record.message for record in caplog.records):
            assert time.monotonic() < deadline
            began = time.monotonic()
            answers.send([AddressedAnswer(address, "x" * 100_000)] * 20)
            longest_s = max(longest_s, time.monotonic() - began)
            clock.now += SKIP_S
        answers.send([AddressedAnswer(address, "skipped")])
        assert longest_s < WITHIN_S / 2
    finally:
        rabbitmq_server.limit_memory()
    until(lambda: not rabbitmq_server.has_alarm())

    def arrives() -> bool:
        clock.now += SKIP_S
        answers.send([AddressedAnswer(address, "after")])
        return b"after" in mailbox.receive(0.1)

    until(arrives)
    answers.close()
    mailbox.close()


def until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
