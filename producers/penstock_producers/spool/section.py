"""A reentrant lock that knows when its own thread comes in a second time."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Section", "is_owned"]


class Section:
    """
    Guards what must not be met half changed, also not by a signal handler or a finalizer that publishes: those interrupt their
    own thread in the middle, and no lock keeps them out. They find `is_mine` before they come in, and leave their work to
    `later`.

        with section.lock, section:
            ...

    The lock is taken by `with` itself, which is written in C: a handler that raises finds no moment between taking it and being
    sure to give it back. What is written in Python here may be cut short, and the next one in does it.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._later: list[Callable[[], object]] = []

    @property
    def is_mine(self) -> bool:
        """To be asked before coming in: whether this thread is inside already."""
        return is_owned(self.lock)

    def later(self, work: Callable[[], object]) -> None:
        """Have it done when the section that was interrupted ends. The work raises nothing, and may be done twice."""
        self._later.append(work)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_exc: object) -> None:
        while self._later:
            self._later[0]()
            self._later.pop(0)


def is_owned(lock: threading.RLock) -> bool:
    """Whether this thread has it."""
    # As threading.Condition does; there is no other way.
    return lock._is_owned()  # type: ignore[attr-defined,no-any-return]  # noqa: SLF001
