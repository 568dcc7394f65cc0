"""What the harness does to messages on the broker itself: take them off the queue, put them back, wipe them."""

from __future__ import annotations

import time
from typing import Any, Self
from urllib.parse import urlsplit

import amqp
import redis

from penstock_schemas.wire import QUEUE

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

    def wipe(self, how: str) -> int:
        """
        Forget messages; returns how many.

        Redis forgets everything there is. RabbitMQ loses the queue itself ("delete") or the messages that wait in it ("purge").
        """
        if self._is_redis:
            with self._client.pipeline() as together:
                together.llen(QUEUE)
                together.hlen(_LEASED)
                together.flushall()
                waiting, leased, _ = together.execute()
            return int(waiting) + int(leased)
        if how == "delete":
            return int(self._channel.queue_delete(QUEUE))
        return int(self._channel.queue_purge(QUEUE))
