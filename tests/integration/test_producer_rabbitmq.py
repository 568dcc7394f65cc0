"""What only RabbitMQ does to a producer: queues with arguments, returned and refused messages, alarms."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kombu import Connection

from penstock_producers import Producer
from penstock_schemas.topology import dead_queue
from penstock_schemas.wire import QUEUE
from tests.producing import eventually
from tests.records import Pair
from tests.servers.rabbitmq import RabbitServer

pytestmark = pytest.mark.rabbitmq

PAIR = Pair(tenant="a", number=1)
QUICK: dict[str, Any] = {"linger_s": 0, "timeout_s": 20.0, "retry_min_s": 0.01, "retry_max_s": 0.1}


def read(url: str) -> list[dict[str, Any]]:
    """Every message, without waiting for one."""
    with Connection(url) as connection, connection.channel() as channel:
        messages = []
        while (message := channel.basic_get(QUEUE, no_ack=True)) is not None:
            messages.append(message)
    assert {message.delivery_info["exchange"] for message in messages} <= {""}
    assert {message.properties["delivery_mode"] for message in messages} <= {2}
    return [json.loads(message.body) for message in messages]


def seqs(messages: list[dict[str, Any]]) -> list[int]:
    """The numbers of all events: what was spilled while the broker refused it may share a message when it is sent again."""
    return [body["seq"] + place for body in messages for place in range(len(body["events"]))]


def put(server: RabbitServer, path: str, body: dict[str, Any]) -> None:
    url = f"http://127.0.0.1:{server._management_port}/api/{path}"
    request = urllib.request.Request(url, method="PUT", data=json.dumps(body).encode())
    request.add_header("Authorization", "Basic " + base64.b64encode(b"guest:guest").decode())
    request.add_header("Content-Type", "application/json")
    urllib.request.urlopen(request, timeout=10).close()


def vhost(url: str) -> str:
    return url.rpartition("/")[2]


def test_it_makes_the_queues_that_the_worker_expects(rabbitmq_url: str, rabbitmq_server: RabbitServer) -> None:
    with Producer(rabbitmq_url, **QUICK) as producer:
        producer.publish(PAIR)
        assert producer.flush(30)
    queue, dead = rabbitmq_server.queue(rabbitmq_url, QUEUE), rabbitmq_server.queue(rabbitmq_url, dead_queue(QUEUE))
    assert (queue["type"], queue["durable"], dead["type"], dead["durable"]) == ("quorum", True, "quorum", True)
    assert queue["arguments"]["x-dead-letter-routing-key"] == dead_queue(QUEUE)


def test_a_message_that_no_queue_takes_is_not_lost(rabbitmq_url: str) -> None:
    """Without `mandatory` the broker would confirm and forget it."""
    with Producer(rabbitmq_url, **QUICK) as producer:
        producer.publish(PAIR)
        assert producer.flush(30)
        with Connection(rabbitmq_url) as connection, connection.channel() as channel:
            channel.queue_delete(QUEUE)
        producer.publish(PAIR)
        assert producer.flush(30)
        assert seqs(read(rabbitmq_url)) == [1]


@pytest.mark.parametrize("durability", ["memory", "spill"])
def test_what_the_broker_refuses_is_sent_again(rabbitmq_url: str, rabbitmq_server: RabbitServer, durability: str) -> None:
    """
    A full queue answers with nack; what it did take is not sent twice.

    Unless it took it in the moment in which the spool wrote it: then it is there twice, which is once to who stores it.
    """
    put(
        rabbitmq_server,
        f"policies/{vhost(rabbitmq_url)}/full",
        {"pattern": ".*", "definition": {"max-length": 2, "overflow": "reject-publish"}, "apply-to": "queues"},
    )
    with Producer(rabbitmq_url, **(QUICK | {"batch_events": 1, "durability": durability})) as producer:
        # A quorum queue notices a little late that it is full, so the first few are taken all the same.
        producer.publish_many([PAIR] * 10)
        eventually(lambda: producer.flush(0.05) or producer.status().failures)
        producer.publish_many([PAIR] * 10)
        eventually(lambda: producer.status().failures)
        taken: list[int] = []

        def is_done() -> bool:
            taken.extend(seqs(read(rabbitmq_url)))
            return producer.flush(0.05)

        eventually(is_done)

        def is_read() -> bool:
            taken.extend(seqs(read(rabbitmq_url)))
            return set(taken) >= set(range(20))

        eventually(is_read)  # what it has confirmed a quorum queue may show a moment later
    assert sorted(taken if durability == "memory" else set(taken)) == list(range(20))


def test_a_message_above_the_brokers_limit_holds_up_nothing(rabbitmq_url: str, rabbitmq_server: RabbitServer) -> None:
    control(rabbitmq_server, "eval", "application:set_env(rabbit, max_message_size, 3000).")
    try:
        with Producer(rabbitmq_url, **QUICK | {"linger_s": 0.2}) as producer:
            producer.publish_many([*[PAIR] * 40, Pair(tenant="a", number=1, text="x" * 5_000), *[PAIR] * 40])
            assert producer.flush(60)
            assert producer.status().dropped == {"too_large": 1}
    finally:
        control(rabbitmq_server, "eval", "application:set_env(rabbit, max_message_size, 134217728).")
    numbers = [body["seq"] + place for body in read(rabbitmq_url) for place in range(len(body["events"]))]
    assert sorted(set(numbers)) == [*range(40), *range(41, 81)]


def test_a_producer_that_may_only_write_can_write(rabbitmq_url: str, rabbitmq_server: RabbitServer) -> None:
    with Producer(rabbitmq_url, **QUICK) as owner:
        owner.publish(PAIR)
        assert owner.flush(30)
    put(rabbitmq_server, "users/writer", {"password": "secret", "tags": ""})
    permissions = {"configure": "^$", "write": ".*", "read": "^$"}
    put(rabbitmq_server, f"permissions/{vhost(rabbitmq_url)}/writer", permissions)
    with Producer(rabbitmq_url.replace("guest:guest", "writer:secret"), **QUICK) as producer:
        producer.publish(PAIR)
        assert producer.flush(30)


def test_a_wrong_password_is_an_outage_with_a_reason(rabbitmq_url: str) -> None:
    with Producer(rabbitmq_url.replace("guest:guest", "guest:wrong"), **QUICK, exit_deadline_s=0) as producer:
        producer.publish(PAIR)
        eventually(lambda: "ACCESS_REFUSED" in str(producer.status().last_error))
        assert "wrong" not in str(producer.status().last_error)


def test_an_alarm_of_the_broker_holds_up_nobody(rabbitmq_url: str, rabbitmq_server: RabbitServer) -> None:
    """A blocked broker reads nothing more: without timeouts a publish would hang for ever (celery#2689)."""
    with Producer(rabbitmq_url, **(QUICK | {"timeout_s": 2.0})) as producer:
        producer.publish(PAIR)
        assert producer.flush(30)
        with memory_alarm(rabbitmq_server):
            producer.publish_many([Pair(tenant="a", number=1, text="x" * 10_000)] * 50)
            eventually(lambda: producer.status().failures > 2)
            alarm = "RabbitMQ takes nothing: an alarm (memory or disk) blocks publishers"
            eventually(lambda: producer.status().last_error == alarm)
        assert producer.flush(30)
    messages = read(rabbitmq_url)
    numbers = [body["seq"] + i for body in messages for i in range(len(body["events"]))]
    assert sorted(set(numbers)) == list(range(51))
    assert len(numbers) <= 3 * 51, "every attempt during the alarm arrived after it"


@contextmanager
def memory_alarm(server: RabbitServer) -> Iterator[None]:
    control(server, "set_vm_memory_high_watermark", "0.0000001")
    try:
        yield
    finally:
        control(server, "set_vm_memory_high_watermark", "absolute", "2GB")


def control(server: RabbitServer, *command: str) -> None:
    program = shutil.which("/usr/lib/rabbitmq/bin/rabbitmqctl") or "rabbitmqctl"
    cookie = server._env["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"].rpartition(" ")[2]
    environment = {**os.environ, **server._env}
    arguments = ["-n", server._env["RABBITMQ_NODENAME"], "--erlang-cookie", cookie, *command]
    subprocess.run([program, *arguments], env=environment, check=True, capture_output=True, timeout=180)
