"""How threads come to a lock one after the other, so that they do not queue up in front of it."""

from __future__ import annotations

import threading
import time

from penstock_producers.spool.section import is_owned

__all__ = ["Doorway"]

#: How long a thread gives way each time, and how often at most. The system makes it some 60 us at least.
_PAUSE_S = 0.000_01
_PAUSES = 20


class Doorway:
    """
    Who waits for one of Python's locks is given it by who gives it back, and has to wait for the interpreter then, which that
    one keeps: whose next event finds the lock taken and waits in turn. Once that has begun it does not end, and every event
    of every thread costs a change of threads, ten times as much as the event. Who gives way sleeps without the lock instead:

        if doorway.entrant is not None:
            doorway.give_way()
        doorway.entrant = token  # an object of this call's own
        with lock:
            ...
            if doorway.entrant is token:
                doorway.entrant = None

    It is a hint and guards nothing: where an exception, of a signal handler, leaves an entrant behind, or where two come in at
    the same moment, the next one loses a millisecond and goes on to the lock. Beside threads that keep the interpreter it
    loses some of their turns.
    """

    __slots__ = ("_lock", "entrant")

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self.entrant: object = None

    def give_way(self) -> None:
        """Let the entrant come to its end, unless it is this thread itself, interrupted under the lock by a signal handler."""
        if is_owned(self._lock):
            return
        for _ in range(_PAUSES):
            time.sleep(_PAUSE_S)
            if self.entrant is None:
                return
