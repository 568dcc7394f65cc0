"""What the harness does to messages on the broker itself: take them off the queue, put them back, wipe them."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from typing import Any, Self
from urllib.parse import urlsplit

import amqp
import redis

from penstock_schemas.wire import QUEUE
from tests.chaos.checker import Key
from tests.producing import eventually

__all__ = ["Messages"]

_LEASED = f"{QUEUE}:leased"


class Messages:
    """One connection to the broker, straight."""

    def __init__(self, broker_url: str) -> None:
        self._is_redis = broker_url.startswith("redis")
        if self._is_redis:
            self._client = redis.Redis.from_url(broker_url)
            return
        parts = urlsplit(broker_url)
        self._connection = amqp.Connection(
            f"{parts.hostname}:{parts.port}", parts.username, parts.password, virtual_host=parts.path.lstrip("/")
        )
        self._connection.connect()
        self._channel = self._connection.channel()
        self._channel.auto_decode = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        (self._client if self._is_redis else self._connection).close()

    def take(self, count: int, within_s: float) -> list[Any]:
        """
        Take messages off the queue, as one more worker would: also from an empty one, as they come.

        Only RabbitMQ knows of them until they are put back; on Redis they are nowhere else.
        """
        deadline = time.monotonic() + within_s
        if self._is_redis:
            return self._pop(count, deadline)
        taken: list[Any] = []
        self._channel.basic_qos(0, count, False)
        consumer = self._channel.basic_consume(QUEUE, callback=taken.append)
        while len(taken) < count and time.monotonic() < deadline:
            try:
                self._connection.drain_events(timeout=1)
            except TimeoutError:
                continue
        self._channel.basic_cancel(consumer)
        return list(taken)

    def _pop(self, count: int, deadline: float) -> list[Any]:
        taken: list[Any] = []
        while len(taken) < count and time.monotonic() < deadline:
            found: Any = self._client.brpop([QUEUE], timeout=1)
            taken += [found[1]] if found else []
        return taken

    def put(self, messages: list[Any]) -> None:
        """Put messages back at the queue's end; each may occur several times."""
        if self._is_redis:
            self._client.lpush(QUEUE, *messages)
            return
        confirming = self._connection.channel()
        confirming.confirm_select()
        for message in messages:
            # `basic_publish_confirm` waits: only then may the original be acknowledged.
            copy = amqp.Message(message.body, **message.properties)
            confirming.basic_publish_confirm(copy, exchange="", routing_key=QUEUE, mandatory=True)
        for tag in {message.delivery_info["delivery_tag"] for message in messages}:
            self._channel.basic_ack(tag)
        confirming.close()
        self._channel.close()

    def wipe(self, how: str) -> tuple[list[Key], list[Key]]:
        """
        Forget messages; returns the events that were in them, and those that they said were dropped.

        Redis forgets everything there is. RabbitMQ loses the queue itself ("delete") or the messages in it ("purge"); no worker
        may have a connection then, or it would not be known what was in its hands.
        """
        if self._is_redis:
            with self._client.pipeline() as together:
                together.lrange(QUEUE, 0, -1)
                together.hvals(_LEASED)
                together.flushall()
                waiting, leased, _ = together.execute()
            messages = [json.loads(message) for message in [*waiting, *leased]]
            return _told_in([(message["headers"], base64.b64decode(message["body"])) for message in messages])
        # A worker's end is noticed a moment later, and what it had comes back with it.
        eventually(lambda: self._declared().consumer_count == 0, within_s=240)
        taken: list[Any] = []

        def is_empty() -> bool:
            # One by one: after cut connections a quorum queue of RabbitMQ 3.10 was seen to keep messages from its one consumer.
            while message := self._channel.basic_get(QUEUE):
                taken.append(message)
                self._channel.basic_ack(message.delivery_tag)
            return not self._declared().message_count

        eventually(is_empty, within_s=240)
        if how == "delete":
            self._channel.queue_delete(QUEUE)
        return _told_in([(message.headers, message.body) for message in taken])

    def _declared(self) -> Any:
        return self._channel.queue_declare(QUEUE, passive=True)


def _told_in(messages: Sequence[tuple[dict[str, Any], bytes | str]]) -> tuple[list[Key], list[Key]]:
    events, dropped = [], []
    for headers, body in messages:
        epoch, first = headers["epoch"], headers["seq"]
        events += [(epoch, seq) for seq in range(first, first + headers["count"])]
        dropped += [(epoch, seq) for start, last, _ in json.loads(body)["dropped"] for seq in range(start, last + 1)]
    return events, dropped
