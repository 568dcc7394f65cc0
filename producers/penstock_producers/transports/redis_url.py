"""
What a Redis URL means: read here for the producers and for the worker, so that one URL leads both to the same place.
"""

from __future__ import annotations

from typing import Any

from kombu.utils.url import parse_url
from redis.backoff import NoBackoff
from redis.retry import Retry

from penstock_producers.transports import check_url
from penstock_producers.transports.tls import redis_tls

__all__ = ["redis_arguments"]


def redis_arguments(url: str, *, socket_timeout_s: float, connect_timeout_s: float) -> dict[str, Any]:
    """
    The arguments of `redis.Redis` for a URL, parsed by kombu as Celery's own connection to it is.

    Of its query only what configures TLS is used, see `tls`: the rest are options of kombu's consumers. redis-py does not try
    again by itself: both sides do, and know how long it may take.

    Raises:
        ValueError: The URL cannot be right; the message says why, without the password.
    """
    check_url(url)
    tls = redis_tls(url)
    try:
        parts = parse_url(url)
    except (KeyError, TypeError, ValueError) as exc:
        raise ValueError(f"{url.partition('://')[0]}://: an option of the broker's URL is wrong: {exc}") from None
    arguments: dict[str, Any] = {
        "host": parts["hostname"] or "127.0.0.1",
        "port": parts["port"] or 6379,
        "db": int((parts["virtual_host"] or "").strip("/") or 0),
        "username": parts["userid"],
        "password": parts["password"],
        "socket_timeout": socket_timeout_s,
        "socket_connect_timeout": connect_timeout_s,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
    }
    if parts["transport"] == "rediss":
        arguments |= {"ssl": True, **tls}
    return arguments
