"""
Answers on RabbitMQ: an exclusive queue with the address as its name, gone with the connection.

So every connection has an address of its own. Nothing is acknowledged: an answer that is lost is asked for again.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import amqp

from penstock_producers.transports.amqp import translated
from penstock_producers.transports.tls import broker_connection
from penstock_schemas.answer import new_address

__all__ = ["AmqpMailbox"]

#: Answers handed over at once.
_ANSWERS_AT_ONCE = 1_000
#: Seconds between AMQP's heartbeats as promised to the broker; sent when the mailbox is read, so about every second.
_HEARTBEAT_S = 30


class AmqpMailbox:
    """See `Mailbox`. Its connection publishes nothing, so no alarm of the broker blocks it."""

    def __init__(self, broker_url: str, timeout_s: float) -> None:
        self.address: str | None = None
        self._timeout_s = timeout_s
        self._client: Any = broker_connection(broker_url, connect_timeout=timeout_s, heartbeat=_HEARTBEAT_S)
        self._connection: Any = None
        self._lines: list[bytes] = []

    def receive(self, timeout_s: float) -> list[bytes]:
        """See `Mailbox`."""
        try:
            with translated():
                if self._connection is None:
                    self._connect()
                    return []
                self._connection.heartbeat_tick(rate=2)
                self._drain(timeout_s)
        except BaseException:
            self._drop()
            raise
        lines, self._lines = self._lines, []
        return lines

    def close(self) -> None:
        """See `Mailbox`."""
        connection, self._connection, self.address = self._connection, None, None
        if connection is not None:
            with translated():
                connection.sock.settimeout(self._timeout_s)
                self._client.transport.close_connection(connection)

    def forget(self) -> None:
        """See `Mailbox`."""
        connection, self._connection, self.address = self._connection, None, None
        if connection is not None and connection.connected and connection.sock is not None:
            connection.sock.close()

    def _connect(self) -> None:
        self._lines = []
        self._connection = self._client.transport.establish_connection()
        # For every read and write from here on: a broker that is silent in the middle of a frame holds nobody for ever.
        self._connection.sock.settimeout(self._timeout_s)
        address = new_address()
        channel = self._connection.channel()
        channel.auto_decode = False
        channel.queue_declare(address, durable=False, exclusive=True, auto_delete=True)
        channel.basic_consume(address, no_ack=True, exclusive=True, callback=self._on_message, on_cancel=self._on_cancel)
        self.address = address

    def _drain(self, timeout_s: float) -> None:
        """Wait for the first answer, then take what is there."""
        deadline = time.monotonic() + timeout_s
        with suppress(TimeoutError, BlockingIOError):
            while len(self._lines) < _ANSWERS_AT_ONCE:
                self._connection.drain_events(timeout=0 if self._lines else max(0.001, deadline - time.monotonic()))

    def _on_message(self, message: Any) -> None:
        body = message.body
        self._lines.append(body if isinstance(body, bytes) else str(body).encode())

    def _on_cancel(self, _consumer: str) -> None:
        raise amqp.exceptions.ConsumerCancelled("the queue of answers is gone")

    def _drop(self) -> None:
        connection, self._connection, self.address = self._connection, None, None
        if connection is not None:
            connection.collect()
