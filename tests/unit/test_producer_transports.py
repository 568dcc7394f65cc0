"""How transports tell what is too large; that the brokers do so is seen in the integration tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import redis

from penstock_producers.errors import MessagesTooLarge, TransportError
from penstock_producers.transports.amqp import AmqpTransport
from penstock_producers.transports.redis import RedisTransport
from penstock_schemas.wire import Envelope, new_epoch

EPOCH = new_epoch()


def envelope(seq: int, size: int) -> Envelope:
    return Envelope("test", EPOCH, seq, [b"x" * size])


def ignore(_: Envelope) -> None:
    pass


@pytest.mark.parametrize(("limit", "refused"), [(1_000, [2, 3]), (3_000, [3]), (1_000_000, [3])])
def test_rabbitmq_says_a_limit_and_something_is_above_it(
    limit: int, refused: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By our measure perhaps nothing is: then it is the largest, for something must become smaller."""
    transport = AmqpTransport("amqp://unused", "q", 1.0)

    def refuse(_: Sequence[Envelope]) -> None:
        raise TransportError(f"RabbitMQ: message size 5000 is larger than configured max size {limit}")

    monkeypatch.setattr(transport, "_deliver", refuse)
    with pytest.raises(MessagesTooLarge) as caught:
        transport.send([envelope(1, 100), envelope(2, 2_000), envelope(3, 4_000)], ignore)
    assert [found.seq for found in caught.value.envelopes] == refused


class FakeRedis:
    """A server whose limit can be set, and which can be gone."""

    def __init__(self) -> None:
        self.limit = "1000"
        self.is_away = False
        self.pushed = 0

    def info(self, _: str) -> dict[str, Any]:
        return {}

    def config_get(self, name: str) -> dict[str, str]:
        return {name: self.limit}

    def lpush(self, _: str, *messages: bytes) -> None:
        if self.is_away:
            raise redis.ConnectionError("gone")
        self.pushed += len(messages)


def test_redis_is_asked_for_its_limit_again_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeRedis()
    monkeypatch.setattr(redis, "Redis", lambda **_: server)
    transport = RedisTransport("redis://unused", "q", 1.0)
    large = [envelope(0, 3_000)]
    with pytest.raises(MessagesTooLarge, match="1000 bytes"):
        transport.send(large, ignore)
    server.limit = "100000"
    transport.send(large, ignore)
    server.is_away = True
    with pytest.raises(TransportError):
        transport.send(large, ignore)
    server.is_away, server.limit = False, "2000"  # another server behind the name
    with pytest.raises(MessagesTooLarge, match="2000 bytes"):
        transport.send(large, ignore)
    assert server.pushed == 1
