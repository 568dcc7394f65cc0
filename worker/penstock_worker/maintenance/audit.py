"""The job that finds gaps, folds the ledger, and forgets what is long over."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from penstock_worker.errors import BrokerAway
from penstock_worker.maintenance.job import Work
from penstock_worker.queue_look import QueueLook, look_at_queue, waiting_messages
from penstock_worker.settings import Settings
from penstock_worker.store.audit import EpochAudit, Rules, audit_epochs, begin_audit
from penstock_worker.store.ledger_fold import find_heaps, fold_heap, forget_epoch
from penstock_worker.store.runs import forget_runs

__all__ = ["audit_ledger"]

logger = logging.getLogger(__name__)

#: Rows that one run folds, about; the largest heap is folded whole. What is left is the next run's.
ROWS_PER_RUN = 1_000_000
#: Epochs that one run forgets.
EPOCHS_PER_RUN = 1_000
#: Messages up to which a run looks what is in the queue: all of them are read.
LOOK_MESSAGES = 10_000


@dataclass
class _Found:
    """The sums of an audit, and the epochs that nobody has heard of for long, and of which nothing is missing."""

    epochs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    gaps: Counter[str] = field(default_factory=Counter)
    epochs_missing: int = 0
    without_letter: int = 0
    silent: int = 0
    old: list[UUID] = field(default_factory=list)


def audit_ledger(work: Work) -> dict[str, Any]:
    """
    Audit every epoch, fold its hours that are over, and delete epochs and runs that are older than the settings keep them.

    An epoch with a gap or a letter that is held is never deleted. Bounded, and safe to run twice, also at once; beside workers
    too, none of which waits for it.

    Returns:
        Events by outcome, and those in gaps by what is known of them; rows folded; epochs, rows of the ledger and of runs that
        were deleted.
    """
    days = work.settings.ledger_keep_days
    heard_before = work.now - timedelta(days=days) if days >= 0 else None
    look = _look(work.settings)
    with begin_audit(work.connection):
        found = _sum(audit_epochs(work.connection, Rules(), look), heard_before)
    if found.gaps["missing"]:
        logger.error("%d events are missing, see `penstock audit`", found.gaps["missing"], extra={"action": "events_missing"})
    return {
        "epochs": found.epochs,
        "silent": found.silent,
        "outcomes": dict(found.outcomes),
        "gaps": {state: found.gaps[state] for state in ("missing", "queued_or_missing", "pending")},
        "epochs_missing": found.epochs_missing,
        "without_letter": found.without_letter,
        **_fold(work),
        **_forget(work, found.old, heard_before),
    }


def _look(settings: Settings) -> QueueLook | None:
    """What is in the queue, if that is not too much; else a gap may be there or missing."""
    try:
        return look_at_queue(settings) if waiting_messages(settings) <= LOOK_MESSAGES else None
    except BrokerAway:
        return None


def _sum(epochs: Iterable[EpochAudit], heard_before: datetime | None) -> _Found:
    found = _Found()
    for epoch in epochs:
        found.epochs += 1
        found.silent += epoch.state == "silent"
        found.outcomes.update(epoch.outcomes)
        found.without_letter += epoch.without_letter
        for gap in epoch.gaps:
            found.gaps[gap.state] += gap.count
        found.epochs_missing += any(gap.state == "missing" for gap in epoch.gaps)
        if heard_before is not None and not epoch.gaps and epoch.last_heard is not None and epoch.last_heard < heard_before:
            found.old.append(epoch.epoch)
    return found


def _fold(work: Work) -> dict[str, int]:
    if work.is_dry_run:
        return {}
    before = after = 0
    for heap in find_heaps(work.connection, work.now):
        if before >= ROWS_PER_RUN:
            break
        old, new = fold_heap(work.connection, heap)
        before, after = before + old, after + new
    return {"rows_folded": before, "rows_left": after}


def _forget(work: Work, old: Sequence[UUID], heard_before: datetime | None) -> dict[str, int]:
    connection, is_dry_run, days = work.connection, work.is_dry_run, work.settings.runs_keep_days
    rows: list[int | None] = []
    if heard_before is not None:
        rows = [forget_epoch(connection, epoch, heard_before, is_dry_run=is_dry_run) for epoch in old[:EPOCHS_PER_RUN]]
    runs = forget_runs(connection, work.now - timedelta(days=days), is_dry_run=is_dry_run) if days >= 0 else 0
    gone = [number for number in rows if number is not None]
    return {"epochs_deleted": len(gone), "ledger_rows_deleted": sum(gone), "runs_deleted": runs}
