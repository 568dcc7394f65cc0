"""
A batch as ONE real Celery request.

So prefork, late acknowledgement, `reject_on_worker_lost`, time limits, warm shutdown, signals, `inspect active` and Flower
apply to batches with no code of ours.
"""

from __future__ import annotations

import ast
import logging
from typing import Any, Protocol

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.app.task import Task
from celery.worker.request import Request, create_request_cls
from celery.worker.state import task_reserved
from kombu.message import Message
from kombu.utils.uuid import uuid
from vine import promise

from penstock_worker.ingest.answers import ANSWERS
from penstock_worker.ingest.measures import MEASURES

__all__ = ["Ending", "Submitter"]

logger = logging.getLogger(__name__)

#: What of a result is for the step alone.
_FOR_THE_STEP = {ANSWERS, MEASURES}


class Ending(Protocol):
    """Told, in the event loop, how a request ended; exactly one of the three is called once."""

    def on_done(self, result: Any) -> None:
        """The task returned `result`, and what it did is committed."""

    def on_lost(self) -> None:
        """The process that ran it is gone."""

    def on_failed(self) -> None:
        """The task raised, in order: nothing was stored."""


class _Ticket(Message):
    """
    What Celery acknowledges or rejects.

    A `Message` subclass whose bound methods are called by these very names: only such callbacks run while Celery 5.7 drains the
    pool at a warm shutdown.
    """

    def __init__(self, ending: Ending) -> None:
        super().__init__(body=b"", delivery_info={}, properties={}, headers={})  # type: ignore[no-untyped-call]  # kombu
        self.ending = ending
        self.result: Any = None
        self.is_lost = False

    def ack_log_error(self, *_args: Any, **_kwargs: Any) -> None:
        self._state = "ACK"
        self.ending.on_done(self.result)

    def reject_log_error(self, *_args: Any, **_kwargs: Any) -> None:
        self._state = "REJECTED"
        if self.is_lost:
            self.ending.on_lost()
        else:
            self.ending.on_failed()


class Submitter:
    """
    Runs tasks in the pool of a worker, without a message of their own.

    Args:
        consumer: Celery's consumer, whose step submits.
        task: The task to run.
    """

    def __init__(self, consumer: Any, task: Task) -> None:
        self._consumer, self._task = consumer, task
        base = create_request_cls(Request, task, consumer.pool, consumer.hostname, consumer.event_dispatcher, app=consumer.app)
        self._request_class = _observed(base)

    def submit(self, args: tuple[Any, ...], argsrepr: str, ending: Ending) -> Request:
        """Hand a task to the pool. `argsrepr` is what `inspect` and Flower show instead of the arguments."""
        consumer, ticket, task_id = self._consumer, _Ticket(ending), uuid()
        headers = {
            "id": task_id,
            "task": self._task.name,
            "lang": "py",
            "argsrepr": argsrepr,
            "kwargsrepr": "{}",
            "root_id": task_id,
            "retries": 0,
            "origin": consumer.hostname,
            "ignore_result": True,
        }
        request = self._request_class(
            ticket,
            on_ack=promise(consumer.call_soon, (ticket.ack_log_error,)),
            on_reject=promise(consumer.call_soon, (ticket.reject_log_error,)),
            app=consumer.app,
            hostname=consumer.hostname,
            eventer=consumer.event_dispatcher,
            task=self._task,
            connection_errors=consumer.connection_errors,
            body=(args, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}),
            headers=headers,
            decoded=True,
            utc=True,
        )
        request.ticket = ticket
        self._announce(request, argsrepr)
        task_reserved(request)
        consumer.on_task_request(request)
        return request

    def _announce(self, request: Any, argsrepr: str) -> None:
        dispatcher = self._consumer.event_dispatcher
        if dispatcher and dispatcher.enabled:
            dispatcher.send(
                "task-received",
                uuid=request.id,
                name=self._task.name,
                args=argsrepr,
                kwargs="{}",
                root_id=request.id,
                parent_id=None,
                retries=0,
                eta=None,
                expires=None,
            )


def _observed(base: Any) -> Any:
    """A request class that notes on its ticket what the acknowledgement alone would not tell."""

    class ObservedRequest(base):  # type: ignore[misc]  # made at run time by Celery
        ticket: _Ticket

        def on_success(self, failed__retval__runtime: Any, **kwargs: Any) -> Any:
            failed, retval, runtime = failed__retval__runtime
            if not failed:
                self.ticket.result = result = _parse(retval)
                if isinstance(result, dict) and not _FOR_THE_STEP.isdisjoint(result):
                    # Flower and every other listener of events get the counts, and no megabyte beside them.
                    retval = repr({name: value for name, value in result.items() if name not in _FOR_THE_STEP})
            return super().on_success((failed, retval, runtime), **kwargs)

        def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
            exc = getattr(exc_info.exception, "exc", exc_info.exception)
            self.ticket.is_lost = isinstance(exc, WorkerLostError | TimeLimitExceeded | SystemExit | KeyboardInterrupt)
            return super().on_failure(exc_info, *args, **kwargs)

        def on_timeout(self, soft: bool, timeout: float) -> Any:
            self.ticket.is_lost = self.ticket.is_lost or not soft
            return super().on_timeout(soft, timeout)

        def info(self, safe: bool = False) -> Any:
            # `inspect active` would answer with the messages themselves: megabytes, and nothing for an operator's eyes.
            del safe
            return super().info(safe=True)

    return ObservedRequest


def _parse(retval: Any) -> Any:
    """The task's result: Celery brings it from the child as its `repr`, because it ignores results."""
    try:
        return ast.literal_eval(retval)
    except (ValueError, SyntaxError, TypeError):
        return None
