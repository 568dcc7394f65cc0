"""The queue as producers and operators see it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterable, Sequence
from itertools import islice
from uuid import uuid4

import redis
from kombu.connection import Connection

from bench.site import RoundVoid, Site
from bench.workload import Message
from penstock_schemas import topology
from penstock_schemas.wire import QUEUE

__all__ = ["Backlog", "event_count"]

#: Messages in one pipeline to Redis; a bound for what is held in memory, not for the rate.
_PIPELINE_MESSAGES = 50
_ARRIVAL_S = 300.0
#: Where messages are filled in that no worker is to see yet.
_PARKED = "bench.parked"


class Backlog:
    """Fills the queue and looks at its depth."""

    def __init__(self, place: Site) -> None:
        self._phases = place.phases
        self._connection = Connection(place.broker_url)
        self._channel = self._connection.channel()
        self._redis = redis.Redis.from_url(place.broker_url) if place.broker == "redis" else None
        if self._redis is None:
            for name, arguments in topology.queues(QUEUE).items():
                self._channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)

    def put(self, messages: Iterable[Message]) -> None:
        """Publish all; when it returns, the broker has them."""
        with self._phases.of("filling the queue"):
            if self._redis is not None:
                self._push(QUEUE, messages)
            else:
                self._wait_for(self.depth() + self._publish(messages))

    def park(self, messages: Iterable[Message]) -> None:
        """Redis: fill them in where no worker looks."""
        with self._phases.of("filling the queue"):
            self._push(_PARKED, messages)

    def release(self) -> None:
        """Redis: let the workers have all parked messages at once."""
        assert self._redis is not None
        self._redis.rename(_PARKED, QUEUE)

    def depth(self) -> int:
        """Messages that wait; those that a worker has taken are not counted."""
        if self._redis is not None:
            return int(self._redis.llen(QUEUE))
        return int(self._channel.queue_declare(QUEUE, passive=True).message_count)

    def under_way(self) -> int:
        """Redis: messages that workers have taken and not acknowledged."""
        assert self._redis is not None, "only RabbitMQ's management plugin tells, and late"
        return int(self._redis.hlen(f"{QUEUE}:leased"))

    def close(self) -> None:
        """Close the connections."""
        self._connection.release()
        if self._redis is not None:
            self._redis.close()

    def _wait_for(self, expected: int) -> None:
        deadline = time.monotonic() + _ARRIVAL_S
        while self.depth() < expected:
            if time.monotonic() > deadline:
                raise RoundVoid(f"RabbitMQ has {self.depth()} messages, not {expected}")
            time.sleep(0.05)

    def _push(self, name: str, messages: Iterable[Message]) -> None:
        assert self._redis is not None
        waiting = iter(messages)
        while part := list(islice(waiting, _PIPELINE_MESSAGES)):
            self._redis.lpush(name, *map(_kombu_message, part))

    def _publish(self, messages: Iterable[Message]) -> int:
        """Without waiting for a confirm each: `put` waits until all have arrived."""
        count = 0
        for message in messages:
            count += 1
            prepared = self._channel.prepare_message(
                message.body,
                content_type=message.content_type,
                content_encoding="binary",
                headers=message.headers,
                properties={"delivery_mode": 2},
            )
            self._channel.basic_publish(prepared, exchange="", routing_key=QUEUE)
        return count


def _kombu_message(message: Message) -> bytes:
    """As any kombu publisher writes it on Redis."""
    head = {
        "content-encoding": "binary",
        "content-type": message.content_type,
        "headers": message.headers,
        "properties": {
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": QUEUE},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid4()),
        },
    }
    return b'%b,"body":"%b"}' % (json.dumps(head).encode()[:-1], base64.b64encode(message.body))


def event_count(messages: Sequence[Message]) -> int:
    """Events in envelopes, by their headers."""
    return sum(int(str(message.headers["count"])) for message in messages)
