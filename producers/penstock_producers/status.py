"""What a producer says about itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

from penstock_producers.breaker import State

__all__ = ["Status"]


@dataclass(frozen=True, slots=True)
class Status:
    """
    One consistent look at a producer, in this process.

    Args:
        accepted: Events given a number, dropped ones included.
        confirmed: Events that the broker has confirmed.
        dropped: Events given up, by reason.
        pending_writes: Neither confirmed nor dropped: in memory, also those under way to the broker, and spooled.
        pending_bytes: Of those in memory.
        spooled: On disk and not confirmed; also those adopted from processes that have ended.
        unreceipted: On disk until the worker says that they are stored or dead-lettered; durability "journal", also adopted.
        adopted: Events found in files of processes that have ended, so far.
        adopting: Files of such processes that are being looked through at this moment.
        oldest_age_s: How long the oldest pending event waits; 0 when none does. The figure to put an alarm on.
        is_late: The oldest pending event waits longer than `late_after_s`.
        is_sending: The background thread runs; it starts with the first event.
        breaker: "open" while the broker counts as away, "half_open" while it is tried again with one message.
        failures: Attempts to send that failed in a row; 0 while the broker answers.
        last_error: Why the last failed attempt failed; None once a later one succeeded.
        last_sync_time: When the broker last confirmed something.
        next_sync_time: When the next attempt to send is planned; None when there is nothing to send.
        sync_latency_s: From acceptance to confirm, of the oldest event of the last message that was confirmed.
    """

    name: str
    epoch: UUID
    accepted: int
    confirmed: int
    dropped: Mapping[str, int]
    pending_writes: int
    pending_bytes: int
    spooled: int
    unreceipted: int
    adopted: int
    adopting: Collection[Path]
    oldest_age_s: float
    is_late: bool
    is_sending: bool
    is_closed: bool
    breaker: State
    failures: int
    last_error: str | None
    last_sync_time: datetime | None
    next_sync_time: datetime | None
    sync_latency_s: float | None

    @property
    def is_synced(self) -> bool:
        """Whether everything accepted and not dropped, and everything adopted, is confirmed by the broker."""
        return self.pending_writes == 0
