"""
RabbitMQ: publisher confirms, pipelined.

A turn publishes all its envelopes, then waits for the confirms of all. Everything is `mandatory`: a message that no queue takes
comes back and is an error. After any error the connection is dropped and the next turn opens a new one, except while the
broker is blocked (memory or disk alarm): then the connection is kept and nothing is published, because what is
written to a blocked connection is delivered when the alarm ends, once for every attempt.

A user who may declare the queues publishes to the default exchange, and needs no worker to have been there. One who may not
publishes to the exchange in front of the queue, which is all that it need be allowed to write to; refused there, it tries the
default exchange in the next turn, and so on by turns.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import amqp

from penstock_producers.errors import MessagesTooLarge, TransportError
from penstock_producers.transports.tls import broker_connection
from penstock_producers.transports.tls_errors import say_tls_error
from penstock_schemas.topology import publishers_exchange, queues
from penstock_schemas.wire import CONTENT_TYPE, Envelope

__all__ = ["AmqpTransport", "translated"]


#: How RabbitMQ refuses a message for its size, from 3.8 and from 4.0 on. It closes the channel: what is behind is not taken.
_TOO_LARGE = re.compile(r"message size \d+ (?:is )?larger than (?:configured )?max size (\d+)")


class AmqpTransport:
    """See `Transport`."""

    def __init__(self, broker_url: str, queue: str, timeout_s: float) -> None:
        self._queue = queue
        self._timeout_s = timeout_s
        self._client: Any = broker_connection(
            broker_url,
            connect_timeout=timeout_s,
            transport_options={"on_blocked": self._on_blocked, "on_unblocked": self._on_unblocked},
        )
        # Nobody would send AMQP's heartbeats while the sender sleeps; TCP's own keepalive is on.
        self._client.heartbeat = 0
        self._connection: Any = None
        self._channel: Any = None
        self._is_blocked = False
        #: The exchange to publish to, and whether the one in front of the queue was the last to refuse.
        self._exchange = ""
        self._takes_default = False
        #: Delivery tags count the messages of a channel; those published and not confirmed, in order.
        self._tag = 0
        self._unconfirmed: dict[int, Envelope] = {}
        self._refused = 0
        self._on_confirmed: Callable[[Envelope], None] = _ignore

    def send(self, envelopes: Sequence[Envelope], on_confirmed: Callable[[Envelope], None]) -> None:
        self._on_confirmed = on_confirmed
        try:
            with translated():
                self._deliver(envelopes)
        except _Blocked:
            raise
        except TransportError as exc:
            self._drop()
            if isinstance(exc.__cause__, amqp.exceptions.AccessRefused | amqp.exceptions.NotFound):
                self._takes_default = not self._takes_default
            if found := _TOO_LARGE.search(str(exc)):
                raise MessagesTooLarge(str(exc), _too_large(envelopes, int(found[1]))) from exc
            raise
        except BaseException:
            self._drop()
            raise
        finally:
            # What a kept connection confirms after this turn belongs to messages that are sent again: nobody waits for it.
            self._on_confirmed = _ignore
            self._unconfirmed.clear()
            self._refused = 0

    def close(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            with translated():
                self._client.transport.close_connection(connection)

    def forget(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None and connection.connected and connection.sock is not None:
            connection.sock.close()

    def _connect(self) -> None:
        if self._connection is not None and self._connection.connected:
            return
        self._drop()
        self._connection = self._client.transport.establish_connection()
        # For every read and write from here on. Without it a broker that does not read holds a write for ever.
        self._connection.sock.settimeout(self._timeout_s)
        self._declare()
        self._channel = self._connection.channel()
        self._channel.confirm_select()
        self._channel.events["basic_ack"].add(self._on_ack)
        self._channel.events["basic_nack"].add(self._on_nack)
        self._tag = 0

    def _declare(self) -> None:
        # On a channel of its own, which a refusal closes.
        channel = self._connection.channel()
        self._exchange = ""
        try:
            for name, arguments in queues(self._queue).items():
                channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
        except amqp.exceptions.AccessRefused:
            # This user may only write; if the queue is missing, `mandatory` tells.
            self._exchange = "" if self._takes_default else publishers_exchange(self._queue)
            return
        channel.close()

    def _deliver(self, envelopes: Sequence[Envelope]) -> None:
        self._connect()
        self._await_unblocked()
        published = 0
        for envelope in envelopes:
            self._drain(timeout_s=0)  # an alarm is heard of before anything is written into it
            if self._is_blocked:
                break
            self._publish(envelope)
            published += 1
        self._await_confirms()
        if published < len(envelopes):
            raise _Blocked

    def _publish(self, envelope: Envelope) -> None:
        message = amqp.Message(
            envelope.body(),
            content_type=CONTENT_TYPE,
            content_encoding="binary",
            delivery_mode=2,
            application_headers=envelope.headers(),
        )
        self._channel.basic_publish(message, exchange=self._exchange, routing_key=self._queue, mandatory=True)
        self._tag += 1
        self._unconfirmed[self._tag] = envelope

    def _await_unblocked(self) -> None:
        deadline = time.monotonic() + self._timeout_s
        while self._is_blocked:
            if not self._drain(deadline - time.monotonic()):
                raise _Blocked

    def _await_confirms(self) -> None:
        # The time limit counts from the last confirm: a slow broker is not an absent one, and sending again would slow it more.
        left = -1
        while self._unconfirmed:
            if len(self._unconfirmed) != left:
                left = len(self._unconfirmed)
                deadline = time.monotonic() + self._timeout_s
            if not self._drain(deadline - time.monotonic()):
                raise _Blocked if self._is_blocked else TransportError("RabbitMQ did not confirm in time")
        if self._refused:
            raise TransportError(f"RabbitMQ refused {self._refused} messages")

    def _drain(self, timeout_s: float) -> bool:
        """Handle what the broker says next; False when it says nothing in time."""
        try:
            self._connection.drain_events(timeout=max(0, timeout_s))
        except TimeoutError:
            return False
        return True

    def _on_ack(self, tag: int, multiple: bool) -> None:
        for envelope in self._settle(tag, multiple):
            self._on_confirmed(envelope)

    def _on_nack(self, tag: int, multiple: bool) -> None:
        self._refused += len(self._settle(tag, multiple))

    def _settle(self, tag: int, multiple: bool) -> list[Envelope]:
        tags = [known for known in self._unconfirmed if known <= tag] if multiple else [tag]
        return [self._unconfirmed.pop(known) for known in tags if known in self._unconfirmed]

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


def _too_large(envelopes: Sequence[Envelope], max_bytes: int) -> list[Envelope]:
    """Above the limit; when none seems to be, the largest: with none refused all would be sent again as they are, for ever."""
    sizes = [len(envelope.body()) for envelope in envelopes]
    least = min(max_bytes + 1, max(sizes))
    return [envelope for envelope, size in zip(envelopes, sizes, strict=True) if size >= least]


class _Blocked(TransportError):  # noqa: N818  # it is a state, not a mistake
    def __init__(self) -> None:
        super().__init__("RabbitMQ takes nothing: an alarm (memory or disk) blocks publishers")


def _ignore(_envelope: Envelope) -> None:
    pass


@contextmanager
def translated() -> Iterator[None]:
    try:
        yield
    except (amqp.AMQPError, OSError) as exc:
        raise TransportError(f"RabbitMQ: {say_tls_error(exc) or str(exc) or type(exc).__name__}") from exc
