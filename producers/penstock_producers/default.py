"""
The process's own producer, for those who want no object.

    from penstock_producers import publish

    publish(Invoice(invoice_id="17", total=90))

It is made by the first `publish`, for the broker that `PENSTOCK_BROKER_URL` names (see `broker_url` for what else counts), or
before that by `configure`. The end of the process closes it.
"""

from __future__ import annotations

import os
import threading
from datetime import datetime
from typing import Any

from penstock_producers.broker_url import broker_url_from
from penstock_producers.errors import NotConfigured
from penstock_producers.producer import Producer
from penstock_producers.receipt import Receipt
from penstock_schemas import Record

__all__ = ["configure", "default_producer", "publish"]

#: Guards the making only; reentrant, because a finalizer may publish while its thread makes the producer.
_lock = threading.RLock()
_producer: Producer | None = None


def _renew_lock() -> None:
    """In a forked child: a thread of the parent may have held it, and is not here to give it back."""
    global _lock  # noqa: PLW0603  # it is the module's
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)


def configure(broker_url: str | None = None, **options: Any) -> Producer:
    """
    Make the process's own producer, in place of the one there is, which is closed.

    Args:
        broker_url: None takes what the environment says, see `broker_url`.
        options: See `Producer`.

    Raises:
        NotConfigured: There is no URL, or what the environment says of it cannot be.
        ValueError: The URL or an option cannot be right.
    """
    global _producer  # there is one for the process, that is what this module is for
    made = Producer(_url(broker_url), **options)
    with _lock:
        former, _producer = _producer, made
    if former is not None:
        former.close()
    return made


def default_producer() -> Producer:
    """
    The process's own producer, for `flush`, `status` and all the rest.

    Raises:
        NotConfigured: It is not made yet, and `PENSTOCK_BROKER_URL` is not set.
    """
    if _producer is not None:
        return _producer
    with _lock:
        return _producer or configure()


def publish(record: Record, *, occurred_at: datetime | None = None) -> Receipt:
    """Like `Producer.publish`, by the process's own producer; raises `NotConfigured` too."""
    return (_producer or default_producer()).publish(record, occurred_at=occurred_at)


def _url(broker_url: str | None) -> str:
    try:
        url = broker_url or broker_url_from(os.environ)
    except ValueError as exc:
        raise NotConfigured(str(exc)) from exc
    if not url:
        raise NotConfigured(
            "no broker: set PENSTOCK_BROKER_URL, or call penstock_producers.configure('redis://host:6379/0') first"
        )
    return url
