"""How a run reaches the broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import kombu.exceptions
from amqp.exceptions import MessageNacked
from celery import Celery

from penstock_worker.errors import BrokerAway, PenstockError
from penstock_worker.ingest.blame import one_line
from penstock_worker.store.schedule import Row

__all__ = ["SCHEDULE_HEADER", "RunRefused", "Send", "Sender", "line_of"]

#: Says in a message which row of the schedule it comes from.
SCHEDULE_HEADER = "penstock_schedule"

#: Seconds that the broker has for each step. Beat's own session ends when it is silent for longer than that, see `tick`.
_STEP_S = 5.0

#: Sends a run of a row, which nobody need take after a time; None for no such time.
Send = Callable[[Row, datetime | None], None]


class RunRefused(PenstockError):  # noqa: N818  # what the broker did, not what went wrong
    """Raised when the broker takes other messages and not this one."""


class Sender:
    """Sends tasks of one application. Its connections are short: one that idled could be dead without anybody knowing."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def knows(self, task: str) -> bool:
        return task in self._app.tasks

    @contextmanager
    def open(self) -> Iterator[Send]:
        """
        Connect, and give a function that returns once the broker has the message.

        Raises:
            BrokerAway: It cannot be reached; the function raises it too, and then the message may have arrived or not.
            RunRefused: By the function only: the message has not arrived, the next one may.
        """
        with self._connection() as connection:
            _connect(connection)
            yield lambda row, expires: self._send(connection, row, expires)

    def _connection(self) -> Any:
        if self._app.conf.broker_url.startswith("redis"):
            options: dict[str, Any] = {"socket_timeout": _STEP_S, "socket_connect_timeout": _STEP_S}
        else:
            # Confirmed: without, what RabbitMQ refuses or never gets is lost without a word, and a backup is worth a wait.
            options = {"read_timeout": _STEP_S, "write_timeout": _STEP_S, "confirm_publish": True}
        # What kombu does where nothing is said is to try for ever.
        options |= {"max_retries": 1, "interval_start": 0}
        return self._app.connection_for_write(connect_timeout=_STEP_S, transport_options=options)

    def _send(self, connection: Any, row: Row, expires: datetime | None) -> None:
        _connect(connection)
        try:
            self._apply(connection, row, expires)
        except (kombu.exceptions.OperationalError, *connection.connection_errors) as exc:
            raise BrokerAway(line_of(exc)) from exc
        except (*connection.channel_errors, MessageNacked) as exc:
            connection.close()  # the channel is lost; the next message has another one
            raise RunRefused(line_of(exc)) from exc

    def _apply(self, connection: Any, row: Row, expires: datetime | None) -> None:
        words: dict[str, Any] = {"args" if isinstance(row.arguments, list) else "kwargs": row.arguments}
        words |= {"expires": expires, "headers": {SCHEDULE_HEADER: row.name}, "ignore_result": True}
        words |= {"connection": connection, "retry": False, "confirm_timeout": _STEP_S}
        if row.queue is not None:
            words["queue"] = row.queue
        task = self._app.tasks.get(row.task)
        if task is None:
            self._app.send_task(row.task, **words)
        else:
            task.apply_async(**words)


def _connect(connection: Any) -> None:
    """Nothing where it is connected."""
    try:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=_STEP_S)
    except (kombu.exceptions.OperationalError, *connection.connection_errors, *connection.channel_errors) as exc:
        raise BrokerAway(line_of(exc)) from exc


def line_of(exc: Exception) -> str:
    """An error as one line; the name of one that says nothing."""
    return one_line(exc) or type(exc).__name__
