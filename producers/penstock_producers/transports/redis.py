"""
Redis and Valkey: a list in kombu's format, so that any kombu consumer reads it.

| key                  | type | what                                   | expiry | written by                       |
|----------------------|------|----------------------------------------|--------|----------------------------------|
| the queue's name     | list | messages, oldest at the right end      | none   | producers (LPUSH), the worker    |

One LPUSH carries all envelopes of a turn: it takes all of them or none, and its reply is the confirmation.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from uuid import uuid4

import redis

from penstock_producers.errors import MessagesTooLarge, TransportError
from penstock_producers.transports.redis_url import redis_arguments
from penstock_producers.transports.tls_errors import say_tls_error
from penstock_schemas.wire import CONTENT_TYPE, Envelope

__all__ = ["RedisTransport", "kombu_message", "translated"]

#: Seconds of silence after which a connection is asked whether it lives before it is used.
_HEALTH_CHECK_INTERVAL_S = 10
_MAX_STRING = "proto-max-bulk-len"
_NO_CLUSTER = "Redis Cluster is not supported, use a single Redis or Valkey (with replicas) or RabbitMQ"


class RedisTransport:
    """See `Transport`. One connection; redis-py opens it anew after every error."""

    def __init__(self, broker_url: str, queue: str, timeout_s: float) -> None:
        self._queue = queue
        self._arguments = redis_arguments(broker_url, socket_timeout_s=timeout_s, connect_timeout_s=timeout_s)
        self._client: redis.Redis | None = None
        #: What the server takes; None when that is to be read.
        self._max_bytes: float | None = None

    def send(self, envelopes: Sequence[Envelope], on_confirmed: Callable[[Envelope], None]) -> None:
        try:
            with translated():
                self._push(envelopes)
        except BaseException:
            # Another server may answer next, or its limit be another one by then.
            self._max_bytes = None
            raise
        for envelope in envelopes:
            on_confirmed(envelope)

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def forget(self) -> None:
        client, self._client = self._client, None
        if client is not None and client.connection is not None:
            # It sees the new process id, and closes its own copy of the socket without shutting the connection down.
            client.connection.disconnect()  # type: ignore[no-untyped-call]

    def _push(self, envelopes: Sequence[Envelope]) -> None:
        if self._client is None:
            self._client = self._connect()
        if self._max_bytes is None:
            self._max_bytes = _longest_string_of(self._client)
        messages = [kombu_message(envelope, self._queue) for envelope in envelopes]
        _check_sizes(envelopes, messages, self._max_bytes)
        self._client.lpush(self._queue, *messages)

    def _connect(self) -> redis.Redis:
        client = redis.Redis(**self._arguments, health_check_interval=_HEALTH_CHECK_INTERVAL_S, single_connection_client=True)
        try:
            is_cluster = client.info("cluster").get("cluster_enabled")
        except redis.ResponseError:
            is_cluster = False  # this user may not ask; a cluster of several nodes answers LPUSH with MOVED
        if is_cluster:
            client.close()
            raise TransportError(_NO_CLUSTER)
        return client


def _longest_string_of(client: redis.Redis) -> float:
    try:
        return int(client.config_get(_MAX_STRING)[_MAX_STRING] or "")
    except (redis.ResponseError, KeyError, ValueError):
        return math.inf  # this user may not ask; the default is far above a message


def _check_sizes(envelopes: Sequence[Envelope], messages: Sequence[bytes], max_bytes: float) -> None:
    """Before anything is written: the server hangs up on what is too large, which looks like an outage."""
    pairs = zip(envelopes, messages, strict=True)
    too_large = [envelope for envelope, message in pairs if len(message) > max_bytes]
    if too_large:
        raise MessagesTooLarge(f"Redis takes no string above proto-max-bulk-len, {max_bytes:.0f} bytes", too_large)


def kombu_message(envelope: Envelope, queue: str) -> bytes:
    """
    An envelope as kombu's virtual transports write it.

    Source: `Channel.prepare_message` and `_inplace_augment_message` in kombu.transport.virtual.
    """
    head = {
        "content-encoding": "binary",
        "content-type": CONTENT_TYPE,
        "headers": envelope.headers(),
        "properties": {
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid4()),
        },
    }
    # Base64 needs no escaping: joined as it is, it is not read once more for that.
    return b'%b,"body":"%b"}' % (json.dumps(head).encode()[:-1], base64.b64encode(envelope.body()))


@contextmanager
def translated() -> Iterator[None]:
    try:
        yield
    except (redis.RedisError, OSError) as exc:
        text = str(exc)
        if text.startswith("MOVED"):
            text = _NO_CLUSTER
        raise TransportError(f"Redis: {say_tls_error(exc) or text or type(exc).__name__}") from exc
