"""
Flower with three of its pages done by us; started as a program, by `flower_command`.

| page               | Flower's own                                      | here                                                |
|--------------------|---------------------------------------------------|-----------------------------------------------------|
| `/broker`, its API | asks Redis without the URL's TLS, RabbitMQ by the | asks by the broker's URL alone; the queue of events |
|                    | management's HTTP; only queues of running workers | is there also while no worker runs                  |
| `/metrics`         | open to everybody                                 | behind the login; `/healthcheck` alone stays open   |
| `/tasks`           | no arguments, no results                          | both: how large a batch was, how its events ended   |
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Iterable
from functools import partial
from typing import Any

from celery.bin.celery import main as celery
from flower import urls
from flower.api.tasks import GetQueueLengths
from flower.options import default_options
from flower.views import BaseHandler
from flower.views.broker import BrokerView
from flower.views.monitor import Metrics
from tornado.web import HTTPError, authenticated

from penstock_schemas.topology import queues
from penstock_worker.errors import BrokerAway
from penstock_worker.queue_look import QueueCount, count_messages
from penstock_worker.settings import Settings, load_settings
from penstock_worker.stack.flower_login import BASIC_AUTH, flower_login

__all__ = ["main", "replace_pages"]


class Queues:
    """What Flower calls a broker: it is asked for the depth of queues."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def queues(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """Those of the workers' queues, and that of events also while no worker is there."""
        ours = queues(self._settings.queue) if self._settings.broker.startswith("amqp") else (self._settings.queue,)
        ask = partial(count_messages, self._settings, sorted({*names, *ours}))
        try:
            return [_as_row(count) for count in await asyncio.get_running_loop().run_in_executor(None, ask)]
        except BrokerAway as exc:
            raise HTTPError(503, f"the broker is away: {exc}") from exc


def _as_row(count: QueueCount) -> dict[str, Any]:
    """In the words of RabbitMQ's management, which are those of the page."""
    row = {
        "name": count.name,
        "messages": count.waiting + (count.held or 0),
        "messages_ready": count.waiting,
        "messages_unacknowledged": count.held,
        "consumers": count.consumers,
    }
    return {name: value for name, value in row.items() if value is not None}


class _Asks:
    """Mixed into a page that shows queues."""

    application: Any

    def get_broker(self) -> Queues:
        return Queues(self.application.capp.penstock_settings)


class _BrokerPage(_Asks, BrokerView):  # type: ignore[misc]  # flower has no types
    pass


class _QueueLengths(_Asks, GetQueueLengths):  # type: ignore[misc]
    pass


def _get_current_user(handler: BaseHandler) -> Any:
    """A login with other letters than ASCII's is an error to Flower's comparison: status 500, a traceback in the log."""
    try:
        return _flowers_get_current_user(handler)
    except TypeError as exc:
        raise HTTPError(401) from exc


_flowers_get_current_user = BaseHandler.get_current_user


class _MetricsPage(Metrics):  # type: ignore[misc]
    get = authenticated(Metrics.get)


#: Of the list of tasks.
_COLUMNS = "name,args,result,state,runtime,received,worker,uuid"
#: Batches and jobs that are remembered, at 4.5 KB each. Flower's own 100,000 do not fit into the memory that deploy/ gives it.
_MAX_TASKS = 20_000

_REPLACED = {BrokerView: _BrokerPage, GetQueueLengths: _QueueLengths, Metrics: _MetricsPage}


def replace_pages() -> None:
    """
    Put our pages in the place of Flower's.

    Raises:
        RuntimeError: This Flower has other pages; one that stays open must not go unnoticed.
    """
    found = set()
    for index, handler in enumerate(urls.handlers):
        spec = handler if isinstance(handler, urls.url) else urls.url(*handler)
        if ours := _REPLACED.get(spec.handler_class):
            found.add(spec.handler_class)
            urls.handlers[index] = urls.url(spec.regex.pattern, ours, spec.kwargs, spec.name)
    BaseHandler.get_current_user = _get_current_user
    if missing := set(_REPLACED) - found:
        raise RuntimeError(f"Flower has no {', '.join(sorted(page.__name__ for page in missing))}")


def main() -> None:
    """Become `celery flower` with the arguments of this program."""
    replace_pages()
    login = flower_login(load_settings(), os.environ)
    if login.is_made:  # of which nobody knows: Flower would be open to everybody
        raise SystemExit("penstock: there is no login for Flower: start it by `penstock flower`")
    if login.text:
        # Set in here, where /proc does not show it.
        os.environ[BASIC_AUTH] = login.text
    # At DEBUG it tells its settings: what it signs cookies with, an OAuth provider's secret.
    logging.getLogger("flower.command").setLevel(logging.INFO)
    # Before Flower reads FLOWER_TASKS_COLUMNS and FLOWER_MAX_TASKS, which say otherwise.
    default_options.tasks_columns, default_options.max_tasks = _COLUMNS, _MAX_TASKS
    sys.argv[:] = ["celery", "-A", "penstock_worker.app", "flower", *sys.argv[1:]]
    celery()


if __name__ == "__main__":
    main()
