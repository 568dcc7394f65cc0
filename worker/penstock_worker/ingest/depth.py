"""How many messages wait, asked from a thread over a connection of its own."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Protocol

import redis
from amqp.exceptions import AMQPError

from penstock_producers.transports.redis_url import redis_arguments
from penstock_producers.transports.tls import broker_connection
from penstock_worker.settings import Settings

__all__ = ["Depth", "depth_of"]

_ANSWER_S = 5.0


class Depth(Protocol):
    """Asks the broker; used by one thread."""

    def ask(self) -> int | None:
        """Messages that no worker has; None if the broker does not say in time, so is away. Never raises."""

    def close(self) -> None:
        """Disconnect until the next `ask`."""


def depth_of(settings: Settings) -> Depth:
    """The one for the settings' broker; connects when first asked."""
    return _RedisDepth(settings) if settings.broker.startswith("redis") else _AmqpDepth(settings)


class _RedisDepth:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: redis.Redis | None = None

    def ask(self) -> int | None:
        """See `Depth`."""
        try:
            if self._client is None:
                self._client = self._connect()
            return int(self._client.llen(self._settings.queue))
        except (redis.RedisError, OSError):
            self.close()
            return None

    def close(self) -> None:
        """See `Depth`."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connect(self) -> redis.Redis:
        connect_timeout_s = self._settings.connect_timeout_s
        return redis.Redis(
            **redis_arguments(self._settings.broker, socket_timeout_s=_ANSWER_S, connect_timeout_s=connect_timeout_s)
        )


class _AmqpDepth:
    """Without heartbeats: nobody would answer the broker's between two questions."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: Any = None

    def ask(self) -> int | None:
        """See `Depth`."""
        try:
            with self._connected().channel() as channel:
                return int(channel.queue_declare(self._settings.queue, passive=True).message_count)
        except (OSError, AMQPError):
            self.close()
            return None

    def close(self) -> None:
        """See `Depth`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError, AMQPError):
                connection.collect()

    def _connected(self) -> Any:
        if self._connection is None:
            client = broker_connection(
                self._settings.broker,
                heartbeat=0,
                connect_timeout=self._settings.connect_timeout_s,
                transport_options={"read_timeout": _ANSWER_S, "write_timeout": _ANSWER_S},
            )
            self._connection = client.transport.establish_connection()
        return self._connection
