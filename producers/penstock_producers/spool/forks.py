"""
Spool files and forks. SQLite must not be touched in a child of the process that opened a connection: it would let go of the
parent's locks, and a lock inside SQLite that another thread held at that moment would be held in the child for ever.

So a fork waits until no thread is inside SQLite, and in the child every connection is leaked: neither used nor closed. The
child's copies of the lock files' descriptors are closed; the parent's locks stay, and end with the parent.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
import threading

__all__ = ["connections", "descriptors", "gates", "registering"]

#: Seconds that a fork waits for each thread inside SQLite; it is there for milliseconds, unless the disk hangs.
_PATIENCE_S = 5.0

#: Held while the sets below change.
registering = threading.RLock()
#: What a thread holds while it is inside SQLite, one for each open file.
gates: set[threading.RLock] = set()
#: Every open connection.
connections: set[sqlite3.Connection] = set()
#: Every open descriptor of a lock file.
descriptors: set[int] = set()

_taken: list[threading.RLock] = []


def _wait_for_silence() -> None:
    registering.acquire()
    _taken.extend(gate for gate in gates if gate.acquire(timeout=_PATIENCE_S))


def _go_on() -> None:
    while _taken:
        _taken.pop().release()
    registering.release()


def _leave_to_parent() -> None:
    for connection in connections:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
    for descriptor in descriptors:
        os.close(descriptor)
    connections.clear()
    descriptors.clear()
    gates.clear()
    _go_on()


os.register_at_fork(before=_wait_for_silence, after_in_parent=_go_on, after_in_child=_leave_to_parent)
