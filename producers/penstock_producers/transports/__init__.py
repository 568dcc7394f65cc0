"""The ways to a broker: `Transport` sends, `Mailbox` hears answers, `Broker` makes both; the URL's scheme chooses."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from penstock_schemas.wire import Envelope

__all__ = ["SCHEMES", "Broker", "Mailbox", "Transport", "UrlBroker", "broker_for", "check_url", "transport_for"]

SCHEMES = ("redis", "rediss", "amqp", "amqps")


class Transport(Protocol):
    """
    What the sender talks to. Used by one thread at a time; connects when it must, at the latest in `send`.
    """

    def send(self, envelopes: Sequence[Envelope], on_confirmed: Callable[[Envelope], None]) -> None:
        """
        Deliver envelopes in the order given.

        Blocks, but never for ever. Calls `on_confirmed` for each one that the broker has taken over; what was not confirmed
        when it raises is sent again later, so that a message may arrive twice.

        Raises:
            TransportError: Not all of them were confirmed. Other errors are treated the same.
        """

    def close(self) -> None:
        """Say goodbye to the broker. May be used again afterwards."""

    def forget(self) -> None:
        """In a forked child: let go of the parent's sockets without a word to the broker."""


class Mailbox(Protocol):
    """Where answers of the worker arrive, see `penstock_schemas.answer`. Used by one thread at a time."""

    @property
    def address(self) -> str | None:
        """The `reply_to` of envelopes whose answers are to come here. None before it is there; may change."""

    def receive(self, timeout_s: float) -> list[bytes]:
        """
        Wait for answers, connecting when it must.

        Returns:
            Lines; none when nothing came in time, and at once none when it has connected and `address` is another one now.

        Raises:
            TransportError: The broker is away. Other errors are treated the same.
        """

    def close(self) -> None:
        """Remove the address from the broker and say goodbye. May be used again afterwards."""

    def forget(self) -> None:
        """In a forked child: let go of the parent's sockets without a word to the broker."""


class Broker(Protocol):
    """A broker as a producer sees it. Connects nowhere by itself; each call gives a new, unconnected object."""

    def transport(self) -> Transport:
        """For the sender."""

    def mailbox(self) -> Mailbox:
        """For who waits for answers."""


@dataclass(frozen=True, slots=True)
class UrlBroker:
    """See `Broker`."""

    broker_url: str
    queue: str
    timeout_s: float

    def transport(self) -> Transport:
        return transport_for(self.broker_url, self.queue, self.timeout_s)

    def mailbox(self) -> Mailbox:
        if self.broker_url.startswith("redis"):
            from penstock_producers.transports.redis_mailbox import RedisMailbox

            return RedisMailbox(self.broker_url, self.timeout_s)
        from penstock_producers.transports.amqp_mailbox import AmqpMailbox

        return AmqpMailbox(self.broker_url, self.timeout_s)


def broker_for(broker_url: str, queue: str, timeout_s: float) -> Broker:
    """
    The broker of a URL.

    Raises:
        ValueError: The URL cannot be right; the message says why, without the password.
    """
    check_url(broker_url)
    from penstock_producers.transports.tls import check_tls

    check_tls(broker_url)
    # Imported now, by who makes the producer: a program that ends soon after would have the sender do it while the interpreter
    # shuts down, where these libraries can no longer be imported, and its events were lost.
    _transport_class(broker_url)
    return UrlBroker(broker_url, queue, timeout_s)


def transport_for(broker_url: str, queue: str, timeout_s: float) -> Transport:
    """
    The transport of a URL, not yet connected.

    Raises:
        ValueError: The URL cannot be right; the message says why, without the password.
    """
    check_url(broker_url)
    return _transport_class(broker_url)(broker_url, queue, timeout_s)


def _transport_class(broker_url: str) -> Callable[[str, str, float], Transport]:
    """Only the library that a URL needs is imported."""
    if broker_url.startswith("redis"):
        from penstock_producers.transports.redis import RedisTransport

        return RedisTransport
    from penstock_producers.transports.amqp import AmqpTransport

    return AmqpTransport


def check_url(broker_url: str) -> None:
    """
    Refuse what cannot be a broker's URL.

    Raises:
        ValueError: See `transport_for`.
    """
    scheme, separator, _ = str(broker_url).partition("://")
    if not separator:
        raise ValueError("broker_url must be a URL such as redis://host:6379/0 or amqp://user:password@host//")
    if "cluster" in scheme:
        raise ValueError(
            f"{scheme}://: Redis Cluster is not supported, use a single Redis or Valkey (with replicas) or RabbitMQ"
        )
    if scheme not in SCHEMES:
        raise ValueError(f"{scheme}://: the broker's URL must begin with {', '.join(f'{name}://' for name in SCHEMES)}")
    if re.search(r";\w+://", broker_url):
        raise ValueError(f"{scheme}://: the URL is of one broker, not of several: take a name that leads to the one in charge")
    try:
        parts = urlsplit(broker_url)
        port, path = parts.port, parts.path
        _check_place(parts)
    except ValueError:
        # Not what is wrong with it: that may be a part of a password with signs that should be escaped.
        raise ValueError(
            f"{scheme}://: the broker's URL has a wrong address or port; signs like / : @ % of a password are escaped in a URL"
        ) from None
    if port == 0:
        raise ValueError(f"{scheme}://: the broker's URL has port 0")
    if scheme.startswith("redis") and path.strip("/") and not path.strip("/").isdecimal():
        raise ValueError(f"{scheme}://: {path.strip('/')!r} is no database of Redis, write a number such as /0")


def _check_place(parts: SplitResult) -> None:
    """A password with / ? or # in it that begins like a port: what is behind would be told as a database, or an option."""
    if "@" in parts.path + parts.fragment or ("@" in parts.query and "@" not in parts.netloc):
        raise ValueError("behind the address")
