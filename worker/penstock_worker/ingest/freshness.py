"""Whether a table's next rows are likely to be all new, by what the last ones were."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Freshness"]

#: Batches between two guesses, at most. A wrong guess costs as much as some four right ones save, leaves dead rows behind, and
#: takes the connection's prepared statements along: psycopg forgets them all when a transaction is rolled back.
MAX_PAUSE_BATCHES = 64


@dataclass(slots=True)
class Freshness:
    """
    Guesses for one table.

    After a wrong guess some batches are merged without one: one at first, twice as many after each that is wrong again.
    """

    _pause: int = 0
    _left: float = 0

    def is_likely(self) -> bool:
        """Whether to guess that the rows of this batch are new; call it once a batch."""
        if self._left:
            self._left -= 1
            return False
        return True

    def learn(self, *, were_new: bool) -> None:
        """Tell how a guess ended."""
        self._pause = 0 if were_new else min(MAX_PAUSE_BATCHES, max(1, self._pause * 2))
        self._left = self._pause

    def give_up(self) -> None:
        """Never guess again: this table does not take rows in that way."""
        self._left = math.inf
