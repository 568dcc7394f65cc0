"""
What happens to producers when their process forks or ends.

A fork: every producer of the child starts anew (epoch, buffer, connection); what the parent had accepted, the parent sends.

An end: all producers send what they hold, at the same time, within one deadline; the rest goes to their spools. Which hook runs
depends on the process:

| process                          | ends by                          | hook                                        |
|----------------------------------|----------------------------------|---------------------------------------------|
| a program                        | return, sys.exit                 | atexit                                      |
| child of multiprocessing         | os._exit after its finalizers    | multiprocessing.util.Finalize               |
| Celery's pool child, recycled too| os._exit after this signal       | celery.signals.worker_process_shutdown      |
| anything killed by a signal      | at once                          | none: what is only in memory is lost        |

The hooks are installed when a sender is started, in the process that starts it: multiprocessing forgets a parent's finalizers
in the child, and Celery's signal can be found only where Celery is loaded (it is never imported from here).
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

if TYPE_CHECKING:
    from penstock_producers.outbox import Outbox
    from penstock_producers.producer import Producer

__all__ = ["close_at_exit", "forget", "renew_after_fork"]

_producers: WeakSet[Producer] = WeakSet()
#: Those with a sender. Held strongly: a producer that nobody refers to any more still has to send its tail.
_outboxes: set[Outbox] = set()
_hooked_pid: int | None = None


def renew_after_fork(producer: Producer) -> None:
    """Have the producer start anew in every child forked from here on."""
    _producers.add(producer)


def close_at_exit(outbox: Outbox) -> None:
    """Have the outbox closed when this process ends."""
    global _hooked_pid  # noqa: PLW0603  # the hooks are the process's
    _outboxes.add(outbox)
    if _hooked_pid == os.getpid():
        return
    _hooked_pid = os.getpid()
    Finalize(None, _close_all, exitpriority=10)
    celery_signals = sys.modules.get("celery.signals")
    if celery_signals is not None:
        celery_signals.worker_process_shutdown.connect(_close_all, weak=False, dispatch_uid="penstock_producers")


def forget(outbox: Outbox) -> None:
    """It has ended by itself."""
    _outboxes.discard(outbox)


def _close_all(**_signal: Any) -> None:
    """Begin everywhere before waiting anywhere: the longest deadline counts, not the sum."""
    started = time.monotonic()
    outboxes = list(_outboxes)
    for outbox in outboxes:
        outbox.begin_close()
    for outbox in outboxes:
        outbox.finish_close(max(0, started + outbox.options.exit_deadline_s - time.monotonic()))


def _renew_all() -> None:
    _outboxes.clear()
    for producer in list(_producers):
        producer.renew()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_renew_all)
