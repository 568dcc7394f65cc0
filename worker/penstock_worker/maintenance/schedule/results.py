"""What came of a run, written into its row of the schedule by the worker that had it."""

from __future__ import annotations

import logging
import time
from typing import Any

import psycopg
from celery.signals import task_postrun, task_prerun

from penstock_worker.ingest.blame import squeezed
from penstock_worker.maintenance.schedule.sender import SCHEDULE_HEADER
from penstock_worker.store.connection import connect_with
from penstock_worker.store.schedule import note_result

__all__ = ["note_results", "result_of"]

logger = logging.getLogger(__name__)

#: What of a job's `Done` goes into the row.
_TOLD = ("state", "seconds", "counts", "error")
_STARTED = "_penstock_started"


def note_results() -> None:
    """Listen to tasks of this process that the schedule has sent; calling it again changes nothing."""
    task_prerun.connect(_begin)
    task_postrun.connect(_end)


def result_of(state: str, returned: object, seconds: float) -> dict[str, Any]:
    """
    The value of `last_result`: a job's own words, of other tasks how they ended.

    Args:
        state: Celery's.
        returned: What the task gave, or the exception that it raised.
        seconds: How long it took.
    """
    if isinstance(returned, dict) and returned.keys() >= set(_TOLD):
        return {name: returned[name] for name in _TOLD if returned[name] is not None}
    result: dict[str, Any] = {"state": {"SUCCESS": "done", "FAILURE": "failed"}.get(state, state.lower())}
    if isinstance(returned, BaseException):
        result["error"] = squeezed(f"{type(returned).__name__}: {returned}")
    return {**result, "seconds": round(seconds, 3)}


def _begin(task: Any, **_kwargs: Any) -> None:
    if task.request.get(SCHEDULE_HEADER):
        setattr(task.request, _STARTED, time.monotonic())


def _end(task: Any, state: str | None = None, retval: object = None, **_kwargs: Any) -> None:
    """A database that is away, for instance to a job that ended for that, is no reason to fail: the next run says more."""
    name = task.request.get(SCHEDULE_HEADER)
    settings = getattr(task.app, "penstock_settings", None)
    if not name or settings is None:
        return
    result = result_of(state or "UNKNOWN", retval, time.monotonic() - task.request.get(_STARTED, time.monotonic()))
    try:
        with connect_with(settings)() as connection:
            note_result(connection, name, result)
    except psycopg.Error as exc:
        logger.warning(
            "what came of %s could not be written into the schedule: %s",
            name,
            " ".join(str(exc).split()),
            extra={"action": "result_unwritten"},
        )
