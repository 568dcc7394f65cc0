"""Becoming a Celery program: signals and exit codes are then its own, with nothing in between."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import NoReturn

from penstock_producers.transports.tls import broker_connection
from penstock_producers.transports.tls_errors import say_tls_error
from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import Settings
from penstock_worker.stack.commands import service_environment

__all__ = ["check_broker_tls", "replace_by"]


def replace_by(command: Sequence[str], settings: Settings) -> NoReturn:
    """
    Go on as this command; does not return.

    Raises:
        ConfigurationError: There is no broker, or no module of a name in `PENSTOCK_TASKS`.
    """
    settings.broker  # noqa: B018  # raises where it is not set
    for module in settings.tasks:
        _check_there_is(module)
    sys.stdout.flush()
    os.execve(command[0], list(command), {**os.environ, **service_environment(settings)})  # noqa: S606  # no shell is wanted


def check_broker_tls(settings: Settings) -> None:
    """
    Refuse what waiting cannot cure: a broker whose certificate is not to be trusted, or that does not trust ours.

    One that is away is not among it: who needs it waits and resumes. Without TLS nothing is asked.

    Raises:
        ConfigurationError: What is wrong with the certificate.
    """
    if not settings.broker.startswith(("rediss://", "amqps://")):
        return
    connection = broker_connection(settings.broker, connect_timeout=settings.connect_timeout_s)
    try:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=settings.connect_timeout_s)
        if settings.broker.startswith("rediss"):
            connection.default_channel.client.ping()  # type: ignore[attr-defined]  # Redis has one
    except Exception as exc:  # kombu passes on what any driver raises
        if reason := say_tls_error(exc):
            raise ConfigurationError(f"the broker cannot be used: {reason}") from exc
    finally:
        connection.release()


def _check_there_is(module: str) -> None:
    with suppress(ImportError, ValueError):  # there is no package around it, or the name is none, like `.x`
        if find_spec(module) is not None:
            return
    raise ConfigurationError(f"PENSTOCK_TASKS: there is no module {module!r} in the path of Python, nor in this folder")
