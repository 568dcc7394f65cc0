"""What a producer says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

__all__ = ["Status"]


@dataclass(frozen=True, slots=True)
class Status:
    """
    One consistent look at a producer, in this process.

    Args:
        accepted: Events given a number, dropped ones included.
        confirmed: Events that the broker has confirmed.
        dropped: Events given up, by reason.
        pending_events: Accepted, neither confirmed nor dropped; also those under way to the broker.
        oldest_age_s: How long the oldest pending event waits; 0 when none does. The figure to put an alarm on.
        is_late: The oldest pending event waits longer than `late_after_s`.
        is_sending: The background thread runs; it starts with the first event.
        failures: Attempts to send that failed in a row; 0 while the broker answers.
        last_error: Why the last failed attempt failed; None once a later one succeeded.
        last_confirmed_at: When the broker last confirmed something.
    """

    name: str
    epoch: UUID
    accepted: int
    confirmed: int
    dropped: Mapping[str, int]
    pending_events: int
    pending_bytes: int
    oldest_age_s: float
    is_late: bool
    is_sending: bool
    is_closed: bool
    failures: int
    last_error: str | None
    last_confirmed_at: datetime | None

    @property
    def is_synced(self) -> bool:
        """Whether everything accepted and not dropped is confirmed."""
        return self.pending_events == 0
