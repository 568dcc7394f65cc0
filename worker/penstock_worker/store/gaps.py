"""
Gaps: runs of numbers below a producer's high-water mark that neither the ledger nor the queue knows.

| state             | meaning                                                                                              |
|-------------------|------------------------------------------------------------------------------------------------------|
| pending           | something above it, or the mark itself, was told less than the grace time ago: it may be on its way   |
| missing           | longer ago, and it does not wait in the queue: it is lost, or in the spool of its producer            |
| queued_or_missing | longer ago, and nobody can say: messages wait in a queue that cannot be read, or the broker is away   |

The producer may also still have them: in its spool, or because it was closed and left the rest there for another to send.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple
from uuid import UUID

from psycopg.rows import class_row

from penstock_schemas.answer import SeqRange
from penstock_worker.store.connection import Connection

__all__ = ["Gap", "GapState", "Mark", "Patience", "Told", "find_told", "place_gaps"]

GapState = Literal["pending", "missing", "queued_or_missing"]

_LEDGER_ROWS_PER_FETCH = 5_000


@dataclass(frozen=True, slots=True)
class Gap:
    """
    Numbers `first` to `last` that are neither in the ledger nor seen in the queue.

    They were published about between `published_after` and `published_before`: the times at which the numbers below and above
    were told to the database, or the producer started. None where that is not known.
    """

    first: int
    last: int
    state: GapState
    published_after: datetime | None
    published_before: datetime | None

    @property
    def count(self) -> int:
        """How many events."""
        return self.last - self.first + 1


class Told(NamedTuple):
    """A gap's neighbours: when something above it was first told to the database, and when the nearest number below was."""

    above_at: datetime | None
    below_at: datetime | None


class Mark(NamedTuple):
    """The high-water mark that a producer has told the database, and when."""

    high_water: int
    told_at: datetime | None


class Patience(NamedTuple):
    """When a gap is missing: `now` is the database's clock; `may_be_queued` if messages wait that cannot be looked at."""

    now: datetime
    grace_s: float
    may_be_queued: bool

    def judge(self, told_at: datetime) -> GapState:
        """What a gap is of which is known since `told_at`; see the module."""
        if self.now - told_at < timedelta(seconds=self.grace_s):
            return "pending"
        return "queued_or_missing" if self.may_be_queued else "missing"


class _Row(NamedTuple):
    lower: int
    at: datetime


def place_gaps(epoch: UUID, missed: Sequence[SeqRange], told: Sequence[Told], mark: Mark, patience: Patience) -> Iterator[Gap]:
    """Say of each gap of an epoch what it is and when it was published; `told` are their neighbours."""
    started = datetime.fromtimestamp((epoch.int >> 80) / 1000, UTC) if epoch.version == 7 else None
    for (first, last), neighbours in zip(missed, told, strict=True):
        # Where only messages that still wait tell of it, that is news of this moment.
        told_at = neighbours.above_at or (mark.told_at if last < mark.high_water else None) or patience.now
        yield Gap(first, last, patience.judge(told_at), neighbours.below_at or started, told_at)


def find_told(connection: Connection, epoch: UUID, gaps: Sequence[SeqRange]) -> list[Told]:
    """The neighbours of an epoch's gaps, in one pass over its part of the ledger from above."""
    told: list[Told] = []
    above_at: datetime | None = None
    left = sorted(gaps)
    with connection.cursor(f"told_{epoch.hex}", row_factory=class_row(_Row)) as rows:
        rows.itersize = _LEDGER_ROWS_PER_FETCH
        rows.execute(
            "SELECT lower(seqs) AS lower, at FROM penstock.ledger WHERE epoch = %s ORDER BY lower(seqs) DESC, at", [epoch]
        )
        for row in rows:
            while left and row.lower < left[-1][0]:
                left.pop()
                told.append(Told(above_at, row.at))
            if not left:
                break
            above_at = row.at if above_at is None else min(above_at, row.at)
    told += [Told(above_at, None)] * len(left)
    return told[::-1]
