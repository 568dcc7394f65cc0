"""
Announcements of what has changed, on the topic exchange `penstock.changes`, for whoever listens.

A message is a JSON object, its routing key `<type>.<event>`. The queues that are bound then have it; where none is, it goes
nowhere, which is no error. RabbitMQ confirms it; on Redis it is in the lists when the call returns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import kombu.exceptions
from kombu.entity import Exchange
from kombu.messaging import Producer

from penstock_producers.transports.tls import broker_connection
from penstock_producers.transports.tls_errors import say_tls_error
from penstock_schemas.topology import CHANGES_EXCHANGE
from penstock_worker.errors import BrokerAway
from penstock_worker.settings import Settings

__all__ = ["Announcer", "open_announcer"]

_EXCHANGE = Exchange(CHANGES_EXCHANGE, type="topic", durable=True)
#: Seconds that the broker has for an answer: a full one blocks whoever publishes.
_ANSWER_S = 10.0


class Announcer:
    """Publishes over one connection."""

    def __init__(self, producer: Producer, errors: tuple[type[Exception], ...]) -> None:
        self._producer, self._errors = producer, errors

    def announce(self, type: str, event: str, body: Mapping[str, Any]) -> None:
        """
        Tell those who listen; when it returns, their queues have it.

        Raises:
            BrokerAway: Perhaps they do not: announce it again.
        """
        try:
            self._producer.publish(
                {"event": event, "type": type, **body},
                routing_key=f"{type}.{event}",
                serializer="json",
                delivery_mode="persistent",
                confirm_timeout=_ANSWER_S,
            )
        except self._errors as exc:
            raise BrokerAway(_line(exc)) from exc


@contextmanager
def open_announcer(settings: Settings) -> Iterator[Announcer]:
    """
    An announcer, connected.

    Raises:
        BrokerAway: It cannot be reached.
    """
    connection = broker_connection(
        settings.broker, connect_timeout=settings.connect_timeout_s, transport_options=_options(settings)
    )
    errors = (*connection.connection_errors, *connection.channel_errors, kombu.exceptions.OperationalError, OSError)
    try:
        try:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=settings.connect_timeout_s)
            producer = Producer(connection.channel(), _EXCHANGE)
        except errors as exc:
            raise BrokerAway(_line(exc)) from exc
        yield Announcer(producer, errors)
    finally:
        with suppress(*errors):
            connection.release()


def _options(settings: Settings) -> dict[str, Any]:
    if settings.broker.startswith("redis"):
        return {"socket_timeout": _ANSWER_S, "socket_connect_timeout": settings.connect_timeout_s}
    return {"confirm_publish": True, "read_timeout": _ANSWER_S, "write_timeout": _ANSWER_S}


def _line(error: Exception) -> str:
    return say_tls_error(error) or (str(error).splitlines() or [type(error).__name__])[0]
