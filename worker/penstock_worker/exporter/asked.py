"""
One of those that are asked: the database, or the broker.

Every scrape wants figures at once, and who is asked may be frozen. So a look runs in a thread of its own, one at a time; its
answer is kept for a few seconds, for there may be several that scrape; and who waits for it does so up to a deadline only.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from penstock_worker.ingest.blame import one_line
from penstock_worker.store.measures import Figures

__all__ = ["KEEP_S", "WAIT_S", "Answer", "Asked", "Look"]

logger = logging.getLogger(__name__)

#: Seconds for which an answer is told again before there is another look.
KEEP_S = 5.0
#: Seconds after which who has not answered counts as away.
WAIT_S = 4.0


class Look(Protocol):
    """How one of them is looked at; `take` and `give_up` come from different threads, all else from one."""

    def take(self) -> Figures:
        """
        Its figures, those that it tells. It may take some seconds.

        Raises:
            Exception: It cannot be asked.
        """

    def give_up(self) -> None:
        """Let a `take` that is under way fail soon, if it can be done."""

    def close(self) -> None:
        """Disconnect; no `take` is under way."""


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What came of a look. `trouble` says why nothing did; then there are no figures.

    `at` is when it ended, by the clock of `Asked`.
    """

    at: float
    seconds: float
    figures: Figures = field(default_factory=dict)
    trouble: str | None = None


class Asked:
    """
    Args:
        name: As the label `of` has it.
        look: How it is looked at.
        now: A clock that never goes back; tests bring another.
    """

    def __init__(self, name: str, look: Look, now: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._look, self._now = look, now
        self._changed = threading.Condition()
        self._began: float | None = None
        self._is_given_up = False
        self._last: Answer | None = None
        self._trouble: str | None = None

    def begin(self) -> None:
        """Look, unless a look is under way or the last one is fresh. Does not wait."""
        with self._changed:
            if self._began is not None or (self._last is not None and self._now() - self._last.at < KEEP_S):
                return
            self._began, self._is_given_up = self._now(), False
        threading.Thread(target=self._run, name=f"penstock-look-{self.name}", daemon=True).start()

    def wait(self, until: float) -> Answer:
        """The answer of the look that is under way, or else of the last one. What is not there at that time is none."""
        with self._changed:
            self._changed.wait_for(lambda: self._began is None, max(0.0, until - self._now()))
            self._is_given_up = is_late = self._began is not None
        if is_late:
            self._look.give_up()
        return self.answer()

    def answer(self) -> Answer:
        """The same, without a wait: what is known now."""
        with self._changed:
            now, began, last = self._now(), self._began, self._last
        if began is not None and now - began >= WAIT_S:
            return self._noted(Answer(now, now - began, trouble=_no_answer(now - began)))
        # Before the first answer nothing is known to be wrong, so nothing is said of it.
        return self._noted(last) if last else Answer(now, 0, trouble="it has not answered yet")

    def close(self) -> None:
        """Disconnect, unless a look is under way that does not end."""
        self._look.give_up()
        with self._changed:
            is_idle = self._changed.wait_for(lambda: self._began is None, WAIT_S)
        if is_idle:
            self._look.close()

    def _run(self) -> None:
        begin = self._now()
        try:
            figures, trouble = self._look.take(), None
        except Exception as exc:  # noqa: BLE001  # whatever it is, it is told as the reason, and the next look comes
            figures, trouble = {}, ": ".join(filter(None, (type(exc).__name__, one_line(exc))))
        with self._changed:
            now = self._now()
            # Whose connection was cut off says that it was, and not why.
            if trouble and self._is_given_up:
                trouble = _no_answer(now - begin)
            self._last, self._began = Answer(now, now - begin, figures, trouble), None
            self._changed.notify_all()

    def _noted(self, answer: Answer) -> Answer:
        """Say it once when it goes away, and once when it is back."""
        with self._changed:
            before, self._trouble = self._trouble, answer.trouble
        if answer.trouble and not before:
            logger.warning("the %s cannot be asked: %s", self.name, answer.trouble, extra={"action": "look_failed"})
        elif before and not answer.trouble:
            logger.info("the %s can be asked again", self.name, extra={"action": "look_back"})
        return answer


def _no_answer(seconds: float) -> str:
    return f"it has not answered within {seconds:.0f} s"
