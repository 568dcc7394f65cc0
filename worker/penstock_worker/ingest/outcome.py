"""What becomes of an event: exactly one Outcome, and for the dead and the held a Letter that says why."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Outcome", "Verdict"]


class Outcome(enum.StrEnum):
    """
    How an event ends. Acknowledgement, ledger, receipts, results and metrics read only this.

    `superseded` is an event that changed nothing which is seen: newer ones had said it all. An older event that still changed
    its row, were it only a minimum, a maximum or the row's oldest version, counts as `stored`.
    `dropped` is the producer's own: the event never reached the broker.
    """

    STORED = "stored"
    SUPERSEDED = "superseded"
    DEAD = "dead"
    HELD = "held"
    FENCED = "fenced"
    EXPIRED = "expired"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    Why an event is not in its table.

    Args:
        outcome: DEAD if it can never be stored as it is, HELD if it cannot be stored now, EXPIRED if it is too old to keep.
        reason: One of a small set of words, the first part of the fingerprint.
        detail: For a person: what was wrong with this one.
    """

    outcome: Outcome
    reason: str
    detail: str = ""
    sqlstate: str | None = None
    constraint: str | None = None
    column: str | None = None
