"""What only Redis and Valkey do to a producer: a full server, a cluster, passwords, kombu's format."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import kombu
import pytest
import redis

from penstock_producers import Producer
from penstock_schemas.wire import CONTENT_TYPE, QUEUE
from penstock_worker.stack.ports import find_free_port
from penstock_worker.stack.valkey import EmbeddedValkey
from tests.producing import eventually
from tests.records import Pair
from tests.servers.valkey import ValkeyServer

PAIR = Pair(tenant="a", number=1)
QUICK: dict[str, Any] = {"linger_s": 0, "timeout_s": 20.0, "retry_min_s": 0.01, "retry_max_s": 0.1}


def test_a_message_is_what_kombu_itself_would_write(valkey_url: str) -> None:
    """Compared with one that kombu publishes: the same fields, the same encodings."""
    with Producer(valkey_url, name="shop", **QUICK) as producer:
        producer.publish(PAIR)
        assert producer.flush(30)
    with redis.Redis.from_url(valkey_url) as client:
        ours = json.loads(client.lrange(QUEUE, -1, -1)[0])
        body = base64.b64decode(ours["body"])
        with kombu.Connection(valkey_url) as connection, connection.Producer() as publisher:
            publisher.publish(
                body,
                exchange="",
                routing_key="other",
                content_type=CONTENT_TYPE,
                content_encoding="binary",
                headers=ours["headers"],
            )
        theirs = json.loads(client.lrange("other", 0, 0)[0])
    assert ours["properties"].pop("delivery_tag") != theirs["properties"].pop("delivery_tag")
    assert theirs["properties"]["delivery_info"].pop("routing_key") == "other"
    assert ours["properties"]["delivery_info"].pop("routing_key") == QUEUE
    assert ours == theirs


def test_a_full_server_refuses_and_nothing_is_lost(valkey_url: str) -> None:
    with redis.Redis.from_url(valkey_url) as client, Producer(valkey_url, **QUICK | {"linger_s": 1_000}) as producer:
        client.config_set("maxmemory", "100kb")
        try:
            producer.publish_many([PAIR] * 10)
            assert producer.flush(0) is False
            eventually(lambda: "maxmemory" in str(producer.status().last_error))
            assert str(producer.status().last_error).startswith("Redis: ")
        finally:
            client.config_set("maxmemory", "0")
        assert producer.flush(30)
        assert client.llen(QUEUE) == 1


def test_a_message_above_the_servers_limit_holds_up_nothing(valkey_url: str) -> None:
    with redis.Redis.from_url(valkey_url) as client:
        client.config_set("proto-max-bulk-len", "1mb")
        try:
            with Producer(valkey_url, **QUICK) as producer:
                producer.publish_many([*[PAIR] * 5, Pair(tenant="a", number=1, text="x" * 1_500_000), *[PAIR] * 5])
                assert producer.flush(60)
                assert producer.status().dropped == {"too_large": 1}
        finally:
            client.config_set("proto-max-bulk-len", "512mb")
        bodies = [json.loads(base64.b64decode(json.loads(message)["body"])) for message in client.lrange(QUEUE, 0, -1)]
    assert sorted(body["seq"] + place for body in bodies for place in range(len(body["events"]))) == [*range(5), *range(6, 11)]


def test_a_key_that_is_no_list_is_an_outage_with_a_reason(valkey_url: str) -> None:
    with redis.Redis.from_url(valkey_url) as client, Producer(valkey_url, **QUICK) as producer:
        client.set(QUEUE, "not a list")
        producer.publish(PAIR)
        eventually(lambda: "WRONGTYPE" in str(producer.status().last_error))
        client.delete(QUEUE)
        assert producer.flush(30)


def test_a_wrong_password_is_an_outage_with_a_reason(valkey_url: str, valkey_server: ValkeyServer) -> None:
    wrong = valkey_url.replace(valkey_server.endpoint.password, "not-it")
    with Producer(wrong, **QUICK, exit_deadline_s=0) as producer:
        producer.publish(PAIR)
        eventually(lambda: "password" in str(producer.status().last_error))
        assert "not-it" not in str(producer.status().last_error)


def test_the_database_of_the_url_is_used(valkey_url: str) -> None:
    with Producer(valkey_url.removesuffix("/0") + "/3", **QUICK) as producer:
        producer.publish(PAIR)
        assert producer.flush(30)
    with redis.Redis.from_url(valkey_url.removesuffix("/0") + "/3") as client:
        assert client.llen(QUEUE) == 2


def test_a_cluster_is_refused_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class ClusterNode(ValkeyServer):
        def prepare(self) -> None:
            EmbeddedValkey.prepare(self)
            with self._configuration.open("a") as file:
                # Without it the port is the other one plus 10,000, which may be none.
                file.write(f"cluster-enabled yes\ncluster-port {find_free_port()}\n")

    server = ClusterNode(tmp_path)
    try:
        server.start()
        with Producer(server.url, **QUICK, exit_deadline_s=0) as producer:
            producer.publish(PAIR)
            error = "Redis Cluster is not supported, use a single Redis or Valkey (with replicas) or RabbitMQ"
            eventually(lambda: producer.status().last_error == error)
    finally:
        server.clean_up()
    assert "Traceback" not in caplog.text
