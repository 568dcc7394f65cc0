"""What the ingest step adds to Celery's remote control."""

from __future__ import annotations

from typing import Any

from celery.worker.control import Panel
from kombu.entity import Exchange, Queue

__all__ = ["register_control"]

_listed = Panel.data["active_queues"]


def register_control() -> None:
    """
    Add the commands `flush` and `flushed`, and the queue of events to what `inspect active_queues` lists.

    By the latter it is on Flower's broker page, which knows task queues only.
    """

    def active_queues(state: Any) -> list[dict[str, Any]]:
        queues = list(_listed(state) or [])
        step = getattr(state.consumer, "ingest_step", None)
        if step is not None:
            name = step.settings.queue
            # Described like a task queue: Flower's page of a worker shows every field.
            queues.append(dict(Queue(name, Exchange(""), routing_key=name).as_dict(recurse=True)))
        return queues

    def flush(state: Any, id: str) -> dict[str, Any] | None:
        """Write what the worker holds, now; `flushed` tells when that is done."""
        step = getattr(state.consumer, "ingest_step", None)
        return None if step is None else step.flush(id)

    def flushed(state: Any, id: str) -> dict[str, Any] | None:
        """How far a flush is."""
        step = getattr(state.consumer, "ingest_step", None)
        return None if step is None else step.look_at_flush(id)

    Panel.data["active_queues"] = active_queues
    Panel.register(type="control", name="flush")(flush)
    Panel.register(type="inspect", name="flushed")(flushed)
