"""
Answers on RabbitMQ, over a connection of their own.

Its own, because the broker stops reading a connection that publishes while it has an alarm (memory, disk), and with it the acks
that came behind. Nothing is waited for: an answer is transient, and if its queue is gone it goes nowhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import amqp
from amqp.exceptions import AMQPError

from penstock_producers.transports.tls import broker_connection
from penstock_worker.ingest.answer_skip import AnswerSkip
from penstock_worker.ingest.answers import AddressedAnswer

__all__ = ["AmqpAnswers", "hang_up"]

#: Seconds a broker has for its goodbye; the loop waits.
GOODBYE_S = 2
#: Seconds the loop waits for a connection, and for a broker that does not read.
CONNECT_S, WRITE_S = 2.0, 0.5


class AmqpAnswers:
    """
    Publishes answers, if it can be done at once.

    Args:
        broker_url: Connected to at the first answer.
        now: A monotonic clock, in seconds.
    """

    def __init__(self, broker_url: str, now: Callable[[], float] = time.monotonic) -> None:
        self._client = broker_connection(
            broker_url,
            connect_timeout=CONNECT_S,
            heartbeat=0,  # nobody would send them; TCP's own keepalive is on
            transport_options={"on_blocked": self._on_blocked, "on_unblocked": self._on_unblocked},
        )
        self._connection: Any = None
        self._channel: Any = None
        self._is_blocked = False
        self._skip = AnswerSkip(now)

    def send(self, answers: Sequence[AddressedAnswer]) -> None:
        """Publish answers, or leave them out and say so; see `Source.answer`."""
        if self._skip.is_on:
            return
        try:
            self._send(answers)
        except (AMQPError, OSError) as exc:
            self._drop()
            self._skip.begin(str(exc) or type(exc).__name__)

    def close(self) -> None:
        """Disconnect."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            hang_up(connection)

    def _send(self, answers: Sequence[AddressedAnswer]) -> None:
        if self._connection is None or not self._connection.connected:
            self._connect()
        self._hear()
        if self._is_blocked:
            self._skip.begin("an alarm of RabbitMQ (memory or disk) blocks publishers")
            return
        for address, line in answers:
            message = amqp.Message(line.encode(), delivery_mode=1)
            self._channel.basic_publish(message, exchange="", routing_key=address)

    def _connect(self) -> None:
        self._drop()
        self._connection = self._client.transport.establish_connection()
        self._connection.sock.settimeout(WRITE_S)
        self._channel = self._connection.channel()

    def _hear(self) -> None:
        """Take in what the broker has said, an alarm above all."""
        with suppress(TimeoutError, BlockingIOError):
            while True:
                self._connection.drain_events(timeout=0)

    def _on_blocked(self, _reason: str) -> None:
        self._is_blocked = True

    def _on_unblocked(self) -> None:
        self._is_blocked = False

    def _drop(self) -> None:
        """Close the socket without the handshake, which a broker that does not answer would only delay."""
        connection, self._connection, self._channel = self._connection, None, None
        self._is_blocked = False
        if connection is not None:
            connection.collect()


def hang_up(connection: Any) -> None:
    """Say goodbye, but not for long: a broker that does not answer takes back what it gave when the socket closes."""
    if not connection.connected:
        connection.collect()  # py-amqp would connect anew for the goodbye
        return
    try:
        with connection.transport.having_timeout(GOODBYE_S):
            connection.close()
    except (OSError, AMQPError):
        connection.collect()
