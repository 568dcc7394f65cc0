"""What the broker users of deploy/ are refused, on the real brokers; tests/acceptance/test_broker_users.py has what works."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import amqp
import kombu
import pytest
import redis

from penstock_producers import Producer
from penstock_producers.transports.amqp import AmqpTransport
from penstock_schemas.answer import new_address
from penstock_schemas.records.translation import TranslationSession
from penstock_schemas.topology import publishers_exchange, queues
from penstock_schemas.wire import QUEUE, Envelope, new_epoch
from penstock_worker.app import MAINTENANCE_QUEUE, create_app
from penstock_worker.exporter.rabbitmq import RabbitLook
from penstock_worker.exporter.redis_broker import RedisLook
from penstock_worker.maintenance.announce import open_announcer
from penstock_worker.queue_look import count_messages
from penstock_worker.settings import Settings
from tests.broker_users import acl_lines, definitions, let_in, send_away
from tests.servers.rabbitmq import RabbitServer
from tests.servers.valkey import ValkeyServer

ROOT = Path(__file__).parents[2]
ADDRESS = new_address()


@pytest.fixture
def redis_users(valkey_server: ValkeyServer, valkey_url: str) -> Iterator[dict[str, str]]:
    yield let_in(valkey_server, valkey_url)
    send_away(valkey_server, valkey_url)


@pytest.fixture
def rabbit_users(rabbitmq_server: RabbitServer, rabbitmq_url: str) -> Iterator[dict[str, str]]:
    yield let_in(rabbitmq_server, rabbitmq_url)
    send_away(rabbitmq_server, rabbitmq_url)


# Redis


_REFUSED_PUBLISHER: list[Callable[[redis.Redis], Any]] = [
    lambda r: r.lrange(QUEUE, 0, -1),
    lambda r: r.lindex(QUEUE, 0),
    lambda r: r.rpop(QUEUE),
    lambda r: r.blpop([QUEUE], timeout=1),
    lambda r: r.llen(QUEUE),
    lambda r: r.ltrim(QUEUE, 1, 0),
    lambda r: r.delete(QUEUE),
    lambda r: r.rename(QUEUE, "mine"),
    lambda r: r.expire(QUEUE, 1),
    lambda r: r.set(QUEUE, "x"),
    lambda r: r.hgetall(f"{QUEUE}:leased"),
    lambda r: r.lpush(MAINTENANCE_QUEUE, "{}"),
    lambda r: r.lpush("mine", "x"),
    lambda r: r.lpush(ADDRESS, "forged"),
    lambda r: r.rpush(ADDRESS, "forged"),
    lambda r: r.sadd("_kombu.binding.penstock.changes", "x"),
    lambda r: r.publish("/0.celery.pidbox", "{}"),
    lambda r: r.execute_command("SUBSCRIBE", "/0.celery.pidbox"),
    lambda r: r.eval("return 1", 0),
    lambda r: r.keys("*"),
    lambda r: r.scan(),
    lambda r: r.config_set("maxmemory", "1"),
    lambda r: r.flushall(),
    lambda r: r.acl_setuser("mine", enabled=True),
    lambda r: r.shutdown(nosave=True),
    lambda r: r.monitor().__enter__(),
]
_REFUSED_WORKER: list[Callable[[redis.Redis], Any]] = [
    lambda r: r.flushall(),
    lambda r: r.flushdb(),
    lambda r: r.config_set("maxmemory", "1"),
    lambda r: r.acl_setuser("mine", enabled=True),
    lambda r: r.shutdown(nosave=True),
    lambda r: r.keys("*"),
    lambda r: r.replicaof("127.0.0.1", 1),
    lambda r: r.set("somebody-elses", "x"),
    lambda r: r.get("somebody-elses"),
    lambda r: r.eval("return redis.call('GET', KEYS[1])", 1, "somebody-elses"),
]
_REFUSED_MONITOR: list[Callable[[redis.Redis], Any]] = [
    lambda r: r.lpush(QUEUE, "x"),
    lambda r: r.rpop(QUEUE),
    lambda r: r.delete(QUEUE),
    lambda r: r.eval("return redis.call('RPOP', KEYS[1])", 1, QUEUE),
    lambda r: r.lrange(ADDRESS, 0, -1),
    lambda r: r.publish("/0.celery.pidbox", "{}"),
    lambda r: r.config_set("maxmemory", "1"),
    lambda r: r.flushall(),
]


@pytest.mark.parametrize(
    ("user", "refused"),
    [("publisher", _REFUSED_PUBLISHER), ("worker", _REFUSED_WORKER), ("monitor", _REFUSED_MONITOR)],
    ids=["publisher", "worker", "monitor"],
)
def test_redis_refuses(redis_users: dict[str, str], valkey_url: str, user: str, refused: list[Callable[[redis.Redis], Any]]):
    with redis.Redis.from_url(valkey_url) as owner:
        owner.lpush(QUEUE, "kept")
        owner.set("somebody-elses", "kept")
        for each in refused:
            # A connection of its own, which a command like MONITOR would change.
            with redis.Redis.from_url(redis_users[user]) as client, pytest.raises(redis.ResponseError, match=r"(?i)permission"):
                each(client)
        assert (owner.lrange(QUEUE, 0, -1), owner.dbsize()) == ([b"kept"], 2)


def test_a_file_of_users_has_nobody_without_a_password():
    assert [line.split()[1] for line in acl_lines()] == ["publisher", "worker", "monitor"]
    assert all(" nopass" not in line and f" >{line.split()[1]} " in line for line in acl_lines())


# RabbitMQ


def connected(url: str) -> Any:
    return kombu.Connection(url, connect_timeout=60).connection


def purge(channel: Any) -> None:
    channel.queue_purge(QUEUE)


_REFUSED_AMQP_PUBLISHER: list[Callable[[Any], Any]] = [
    lambda c: c.basic_get(QUEUE),
    lambda c: c.basic_consume(QUEUE),
    purge,
    lambda c: c.queue_delete(QUEUE),
    lambda c: c.queue_declare("mine"),
    lambda c: c.queue_bind(QUEUE, "penstock.changes", routing_key="#"),
    lambda c: c.exchange_delete(publishers_exchange(QUEUE)),
    lambda c: c.exchange_declare("mine", "direct"),
    lambda c: published(c, "", QUEUE),
    lambda c: published(c, "", MAINTENANCE_QUEUE),
    lambda c: published(c, "", ADDRESS),
    lambda c: published(c, "celery.pidbox", ""),
    lambda c: published(c, "penstock.changes", "x"),
]
_REFUSED_AMQP_MONITOR: list[Callable[[Any], Any]] = [
    lambda c: c.basic_get(QUEUE),
    purge,
    lambda c: c.queue_delete(QUEUE),
    lambda c: published(c, "", QUEUE),
    lambda c: published(c, publishers_exchange(QUEUE), QUEUE),
    lambda c: published(c, "celery.pidbox", ""),
]
_REFUSED_AMQP_WORKER: list[Callable[[Any], Any]] = [
    lambda c: c.queue_declare("mine"),
    lambda c: c.basic_get("somebody-elses"),
    lambda c: c.queue_delete("somebody-elses"),
    lambda c: published(c, "amq.fanout", ""),
]


def published(channel: Any, exchange: str, routing_key: str) -> None:
    """Publish, and wait for what the broker says to it."""
    channel.confirm_select()
    channel.basic_publish_confirm(amqp.Message(b"x"), exchange=exchange, routing_key=routing_key)


@pytest.mark.rabbitmq
@pytest.mark.parametrize(
    ("user", "refused"),
    [("publisher", _REFUSED_AMQP_PUBLISHER), ("worker", _REFUSED_AMQP_WORKER), ("monitor", _REFUSED_AMQP_MONITOR)],
    ids=["publisher", "worker", "monitor"],
)
def test_rabbitmq_refuses(rabbit_users: dict[str, str], rabbitmq_url: str, user: str, refused: list[Callable[[Any], Any]]):
    with kombu.Connection(rabbitmq_url) as owner, owner.channel() as channel:
        channel.queue_declare("somebody-elses")
        channel.queue_declare(MAINTENANCE_QUEUE)
        channel.exchange_declare("celery.pidbox", "fanout")
        channel.exchange_declare("penstock.changes", "topic", durable=True)
        connection = connected(rabbit_users[user])
        for each in refused:
            with pytest.raises(amqp.exceptions.AccessRefused):
                each(connection.channel())
        connection.close()
        counts = [
            channel.queue_declare(name, passive=True).message_count for name in (QUEUE, MAINTENANCE_QUEUE, "somebody-elses")
        ]
    assert counts == [0, 0, 0]


@pytest.mark.rabbitmq
def test_a_mailbox_is_nobody_elses_on_rabbitmq(rabbit_users: dict[str, str]):
    mine, other = (connected(rabbit_users["publisher"]) for _ in range(2))
    mine.channel().queue_declare(ADDRESS, durable=False, exclusive=True, auto_delete=True)
    for read in (lambda c: c.basic_get(ADDRESS), lambda c: c.basic_consume(ADDRESS), lambda c: c.queue_delete(ADDRESS)):
        with pytest.raises(amqp.exceptions.ResourceLocked):
            read(other.channel())
    mine.close()
    other.close()


@pytest.mark.rabbitmq
def test_what_the_definitions_declare_is_what_both_sides_declare():
    content = definitions()
    (exchange,), (binding,) = content["exchanges"], content["bindings"]

    assert {queue["name"]: queue["arguments"] for queue in content["queues"]} == queues(QUEUE)
    assert exchange["name"] == binding["source"] == publishers_exchange(QUEUE)
    assert (binding["destination"], binding["routing_key"]) == (QUEUE, QUEUE)
    assert not any("hash" in word for user in content["users"] for word in user)


@pytest.mark.rabbitmq
def test_who_may_write_to_the_default_exchange_only_goes_on(rabbitmq_server: RabbitServer, rabbitmq_url: str):
    """Rights from before there was an exchange for publishers, and no worker that would have declared it."""
    host = rabbitmq_url.rpartition("/")[2]
    with kombu.Connection(rabbitmq_url) as owner, owner.channel() as channel:
        for name, arguments in queues(QUEUE).items():
            channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
    rabbitmq_server.call("PUT", "/api/users/old", {"password": "old", "tags": ""})
    rabbitmq_server.call("PUT", f"/api/permissions/{host}/old", {"configure": "^$", "write": "^amq\\.default$", "read": "^$"})
    transport = AmqpTransport(rabbitmq_url.replace("guest:guest", "old:old"), QUEUE, 60)
    confirmed: list[Envelope] = []
    envelope = Envelope("old", new_epoch(), 0, (b"{}",))
    try:
        with pytest.raises(Exception, match="publish"):
            transport.send([envelope], confirmed.append)
        transport.send([envelope], confirmed.append)
        assert confirmed == [envelope]
    finally:
        transport.close()
        rabbitmq_server.call("DELETE", "/api/users/old")


@pytest.mark.rabbitmq
def test_a_service_that_listens_needs_its_own_queue_only(
    rabbit_users: dict[str, str], rabbitmq_server: RabbitServer, rabbitmq_url: str
):
    """The rights stand in docs/security.md."""
    (line,) = [
        part for part in (ROOT / "docs" / "security.md").read_text().split("\n- ") if part.startswith("**A service that l")
    ]
    configure, write, read = re.findall(r"`(\^[^`]*\$)`", line)
    rights = {"configure": configure, "write": write, "read": read}
    rabbitmq_server.call("PUT", "/api/users/listener", {"password": "listener", "tags": ""})
    rabbitmq_server.call("PUT", f"/api/permissions/{rabbitmq_url.rpartition('/')[2]}/listener", rights)
    told: list[Any] = []
    queue = kombu.Queue(
        "translator.incomplete", kombu.Exchange("penstock.changes", type="topic"), "translation.session.incomplete"
    )
    url = rabbitmq_url.replace("guest:guest", "listener:listener")
    try:
        with kombu.Connection(url) as connection, connection.Consumer(queue, callbacks=[lambda body, _: told.append(body)]):
            with open_announcer(Settings(broker_url=rabbit_users["worker"])) as announcer:
                announcer.announce("translation.session", "incomplete", {"key": ["s1"]})
            connection.drain_events(timeout=120)
            with pytest.raises(amqp.exceptions.AccessRefused):
                connection.channel().basic_get(QUEUE)
    finally:
        rabbitmq_server.call("DELETE", "/api/users/listener")
    assert [said["key"] for said in told] == [["s1"]]


# Both


@pytest.fixture
def users(broker_server: ValkeyServer | RabbitServer, broker_url: str) -> Iterator[dict[str, str]]:
    yield let_in(broker_server, broker_url)
    send_away(broker_server, broker_url)


def test_a_publisher_needs_no_worker_to_have_been_there(users: dict[str, str], broker_server: Any, broker_url: str):
    with Producer(users["publisher"], batch_events=1) as producer:
        producer.publish(TranslationSession(session_id="a"))
        assert producer.flush(120)
        assert not producer.status().dropped
    assert broker_server.waiting(broker_url) >= 1


def test_the_monitor_sees_what_waits(users: dict[str, str]):
    settings = Settings(broker_url=users["monitor"])
    with Producer(users["publisher"], batch_events=1) as producer:
        producer.publish(TranslationSession(session_id="a"))
        assert producer.flush(120)

    look = RedisLook(settings) if settings.broker.startswith("redis") else RabbitLook(settings)
    try:
        figures = look.take()
    finally:
        look.close()
    waiting = figures["penstock_queue_messages"]
    assert isinstance(waiting, dict)
    assert waiting["waiting"] >= 1
    if settings.broker.startswith("redis"):
        assert {"penstock_queue_oldest_seconds", "penstock_redis_memory_bytes"} <= figures.keys()
        assert count_messages(settings, [QUEUE, MAINTENANCE_QUEUE])[0].waiting >= 1


def test_workers_take_json_only(broker_url: str):
    """A task or a control command that is a pickle is refused before it is read."""
    app = create_app(Settings(broker_url=broker_url, database_url="postgresql://nobody@127.0.0.1:1/none"))
    control = app.control.mailbox.Node("w")

    assert set(app.conf.accept_content) == {"json"}
    assert set(control.mailbox.accept) == {"json"}
    assert (app.conf.task_serializer, app.conf.event_serializer) == ("json", "json")
