"""Starting threads in a process whose signal handlers may raise at any moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["start_thread"]

#: Seconds, and looks in them, after which a thread that has not begun does not begin any more.
_BEGUN_S = 0.2
_LOOKS = 20


def start_thread(run: Callable[[], None], name: str, on_failure: Callable[[], None]) -> None:
    """
    Start a thread, one that does not keep the process alive.

    Args:
        run: What it does.
        name: Of the thread.
        on_failure: Called when it was not started, before the error is raised.

    Raises:
        RuntimeError: No thread can be started, as at the very end of a process.
    """
    thread = threading.Thread(target=run, name=name, daemon=True)
    try:
        thread.start()
    except BaseException as exc:
        if not _has_begun(thread, exc):
            on_failure()
        if isinstance(exc, KeyError) and exc.__context__ is not None:
            raise exc.__context__ from None  # `Thread.start` fails at cleaning up after the exception that came
        raise


def _has_begun(thread: threading.Thread, error: BaseException) -> bool:
    """It may have: the exception can be a signal handler's, and have come after the start."""
    for _ in range(0 if isinstance(error, RuntimeError) else _LOOKS):
        if thread.ident is not None:
            return True
        time.sleep(_BEGUN_S / _LOOKS)
    return thread.ident is not None
