"""Asking the workers of a queue, by Celery's remote control."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import kombu.exceptions

from penstock_producers.transports.tls_errors import say_tls_error
from penstock_worker.errors import BrokerAway
from penstock_worker.settings import Settings

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["ANSWER_S", "Workers", "open_workers"]

#: Seconds in which whoever answers at all has answered: nobody knows how many workers there are.
ANSWER_S = 1.0


class _AllAnsweredError(Exception):
    """Ends the wait for more; no error, but kombu offers no other way."""


class Workers:
    """The workers that consume a queue of events. Other programs of Celery on the broker are asked too, and passed over."""

    def __init__(self, app: Celery, queue: str) -> None:
        self._app, self._queue = app, queue
        with app.connection_for_read() as connection:  # not opened, only asked what it may raise
            self._errors = (*connection.connection_errors, *connection.channel_errors, kombu.exceptions.OperationalError)

    def ask(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        names: Collection[str] | None = None,
        expected: int | None = None,
        timeout_s: float = ANSWER_S,
    ) -> dict[str, dict[str, Any]]:
        """
        What their ingest steps answer, by name.

        Args:
            command: Of `inspect` or `control`.
            arguments: The command's.
            names: Ask these only, and wait for no others.
            expected: Wait for so many, where their number is known.
            timeout_s: Seconds without an answer after which no more is waited for.

        Raises:
            BrokerAway: It cannot be reached.
        """
        expected = len(names) if names is not None else expected
        found: dict[str, dict[str, Any]] = {}

        def note(answer: Any) -> None:
            found.update({name: step for name, told in answer.items() if (step := self._step(told)) is not None})
            if len(found) == expected:
                raise _AllAnsweredError

        destination = None if names is None else list(names)
        try:
            self._app.control.broadcast(
                command, dict(arguments or {}), destination, reply=True, timeout=timeout_s, callback=note
            )
        except _AllAnsweredError:
            pass
        except self._errors as exc:
            reason = say_tls_error(exc) or " ".join(str(exc).split())
            raise BrokerAway(f"the broker cannot be reached: {reason}") from exc
        return found

    def _step(self, told: Any) -> dict[str, Any] | None:
        """The part of an answer that is an ingest step's; None if it is of no worker of this queue."""
        step = told.get("penstock", told) if isinstance(told, dict) else None
        return step if isinstance(step, dict) and step.get("queue") == self._queue else None


@contextmanager
def open_workers(settings: Settings) -> Iterator[Workers]:
    """A connection over which workers can be asked; it is made when the first one is."""
    from penstock_worker.celery_app import celery_for

    with celery_for("penstock-look", settings.broker) as app:
        app.conf.update(
            broker_connection_timeout=settings.connect_timeout_s,
            broker_transport_options={"max_retries": 1, "interval_start": 0},
        )
        yield Workers(app, settings.queue)
