"""
What a worker's main process knows of the database, to which it never connects.

A batch that was written tells that the database is there. While none does, a pool child looks, at once after the start and then
now and then; whether all migrations are in place it looks up until that is so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from penstock_worker.ingest.request import Ending, Submitter

__all__ = ["DatabaseLook"]

#: Shown by `inspect` and Flower as the look's argument.
_ARGSREPR = "<is the database there?>"
#: A batch has more to do than a look: it may take so many times as long as looks are apart.
_BATCH_LOOKS = 2


class DatabaseLook:
    """
    Belongs to the event loop.

    Args:
        every_s: Seconds between two looks while no batch is written.
        on_away: Told why, when a look finds the database away.
        on_lost: Told when the process that looks dies.
        on_ended: Told when a look has ended, however: the child that looked is free.
        clock: Monotonic.
    """

    def __init__(
        self,
        every_s: float,
        on_away: Callable[[str], None],
        on_lost: Callable[[], None],
        on_ended: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._every_s, self._on_away, self.on_lost, self._clock = every_s, on_away, on_lost, clock
        self._on_ended = on_ended
        self._next_at = 0.0
        self._asked: _Asked | None = None
        self._silent_since = 0.0
        self._is_reached = self._is_migrated = False
        self._away_why: str | None = None
        self._unmigrated_why: str | None = None

    def begin(self, looks: Submitter) -> None:
        """The worker has connected to the broker: what was asked before is never answered."""
        self._looks, self._asked, self._next_at = looks, None, 0.0

    @property
    def is_looking(self) -> bool:
        """Whether a pool child is looking."""
        return self._asked is not None

    def look_soon(self) -> None:
        """Look with the next turn, unless all is known to be well."""
        if self.why() is not None:
            self._next_at = 0.0

    def look_if_due(self) -> None:
        """Ask a pool child, unless one is looking, or it is too early; call it only while one is free."""
        now = self._clock()
        if self._asked is None and now >= self._next_at:
            self._asked, self._silent_since, self._next_at = _Asked(self), now, now + self._every_s
            self._looks.submit((True, not self._is_migrated), _ARGSREPR, self._asked)

    def note_reached(self) -> None:
        """A batch was written, or a probe of a pause succeeded."""
        self._is_reached, self._away_why = True, None
        self._silent_since = now = self._clock()
        if self._is_migrated:
            self._next_at = now + self._every_s

    def note_away(self, why: str) -> None:
        """A batch found it away."""
        self._away_why = why

    def why(self, oldest_batch_at: float | None = None) -> str | None:
        """
        What is wrong with the database, as far as is known, or None.

        Args:
            oldest_batch_at: When the longest running batch began. While all children have one nobody looks.
        """
        now = self._clock()
        silent_s = now - self._silent_since
        if self._away_why is not None:
            return f"the database is away: {self._away_why}"
        if self._unmigrated_why is not None:
            return self._unmigrated_why
        if self._asked is not None and silent_s > self._every_s:
            return f"the database has not answered for {silent_s:.0f} s"
        batch_s = 0.0 if oldest_batch_at is None else now - max(oldest_batch_at, self._silent_since)
        if batch_s > _BATCH_LOOKS * self._every_s:
            return f"no batch has ended for {batch_s:.0f} s: the database does not answer, or is slow"
        return None if self._is_reached and self._is_migrated else "the database has not been looked at yet"

    def hear(self, asked: Ending, answer: Any) -> None:
        """A look has ended; `answer` is no dict if nothing came of it."""
        if asked is not self._asked:
            return
        self._asked = None
        if isinstance(answer, dict):
            self._note(answer)
        self._on_ended()

    def _note(self, answer: dict[str, Any]) -> None:
        if "away" in answer:
            self.note_away(answer["away"])
            self._on_away(answer["away"])
            return
        self._is_migrated = self._is_migrated or "unmigrated" not in answer
        self._unmigrated_why = answer.get("unmigrated")
        self.note_reached()


class _Asked:
    """A look under way; an `Ending` of its request."""

    def __init__(self, look: DatabaseLook) -> None:
        self._look = look

    def on_done(self, result: Any) -> None:
        """See `Ending`."""
        self._look.hear(self, result)

    def on_lost(self) -> None:
        """See `Ending`."""
        self._look.on_lost()
        self._look.hear(self, None)

    def on_failed(self) -> None:
        """See `Ending`. Why, is in the log."""
        self._look.hear(self, None)
