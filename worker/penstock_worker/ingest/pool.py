"""Celery's prefork pool, where batches ask more of it than tasks do."""

# ruff: noqa: SLF001  # what Celery does not offer

from __future__ import annotations

import fcntl
from contextlib import suppress
from typing import Any

from billiard.pool import CLOSE

__all__ = ["finish_writes_at_shutdown", "widen_pipes"]

#: What anybody may ask for on Linux by default; batches have megabytes, and the loop writes once a turn.
_PIPE_BYTES = 1024 * 1024


def finish_writes_at_shutdown(pool: Any) -> None:
    """
    Have the pool write out, at a warm shutdown, what it has begun to hand to its children.

    Celery's loop ends at once then, and its `flush` finishes such writes only while the pool is open, at a lost connection. A
    batch is larger than a pipe holds (64 KiB): its child would wait for the rest for ever, and the worker for its child.

    Args:
        pool: The worker's; doing it again changes nothing.
    """
    flush = pool.flush
    if getattr(flush, "finishes_writes", False):
        return

    def finish_and_flush() -> None:
        if pool._pool._state == CLOSE:
            _finish_writes(pool._pool)
        flush()

    finish_and_flush.finishes_writes = True  # type: ignore[attr-defined]  # the mark of the wrapping
    pool.flush = finish_and_flush


def _finish_writes(processes: Any) -> None:
    jobs = {job._writer(): job for job in processes._cache.values() if hasattr(job, "_writer")}
    for writer in processes._active_writers & jobs.keys():
        processes._flush_writer(jobs[writer]._write_to, writer)
    for job in jobs.values():
        # Lest `flush` forget it: a child whose result nobody reads waits half a minute before it ends.
        job._accepted = True


def widen_pipes(pool: Any) -> None:
    """
    Have a batch reach its child in a few writes: a pipe holds 64 KiB, and between two writes the loop does other things.

    Args:
        pool: The worker's; its processes change, so this is to be done again and again. Where the system has no such thing, or
            grants it to nobody any more, batches take longer.
    """
    command: int | None = getattr(fcntl, "F_SETPIPE_SZ", None)
    if command is None:
        return
    for process in pool._pool._pool:
        with suppress(OSError):
            fcntl.fcntl(process.inqW_fd, command, _PIPE_BYTES)
