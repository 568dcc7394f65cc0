"""A reentrant lock that knows when its own thread comes in a second time."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Section"]


class Section:
    """
    Guards what must not be met half changed, also not by a signal handler or a finalizer that publishes: those interrupt their
    own thread in the middle, and no lock keeps them out. Inside, they find `is_interrupting` and leave their work to `later`.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._later: list[Callable[[], object]] = []

    @property
    def is_interrupting(self) -> bool:
        """To be asked inside: whether this thread was inside already."""
        return self._depth > 1

    def later(self, work: Callable[[], object]) -> None:
        """Have it done when the section that was interrupted ends. The work raises nothing."""
        self._later.append(work)

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1

    def __exit__(self, *_exc: object) -> None:
        while self._depth == 1 and self._later:
            self._later.pop(0)()
        self._depth -= 1
        self._lock.release()
