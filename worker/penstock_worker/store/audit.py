"""
The audit: of every number that a producer has given, what became of it.

The ledger is folded by the database, one epoch after the other is settled here, and nothing is kept of it but its sums and its
gaps: so the memory that it takes does not grow with the ledger.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from psycopg import sql
from psycopg.rows import class_row

from penstock_schemas.answer import PRECEDENCE, SeqRange
from penstock_schemas.wire import MAX_EVENTS_PER_MESSAGE
from penstock_worker import seq_ranges
from penstock_worker.queue_look import QueueLook
from penstock_worker.store.connection import Connection
from penstock_worker.store.gaps import Gap, GapState, Mark, Patience, Told, find_told, place_gaps
from penstock_worker.store.ledger import folded

__all__ = ["EpochAudit", "Rules", "audit_epochs", "begin_audit"]

#: Epochs that come from the database in one round trip.
_EPOCHS_PER_FETCH = 100


@dataclass(frozen=True, slots=True)
class Rules:
    """
    What is audited, and how patiently.

    Args:
        grace_s: Seconds after which a gap is missing, by the database's clock.
        silent_after_s: Seconds without a word after which an epoch that was not closed counts as killed.
        producer: Only the epochs of this producer.
        since: Only epochs that were heard of since then.
        epoch: Only this one.
    """

    grace_s: float = 60.0
    silent_after_s: float = 90.0
    producer: str | None = None
    since: datetime | None = None
    epoch: UUID | None = None


@dataclass(slots=True)
class EpochAudit:
    """
    One start or fork of a producer.

    Args:
        state:
            `closed`: it said that nothing follows. `open`: it was heard of lately. `silent`: neither, so it was killed, or has
            nothing to say; what it accepted beyond `sent` is unknown.
        sent: Numbers that are known to have been given.
        outcomes: Events by outcome, each once.
        dropped: Of those dropped, how many for each reason.
        queued: Events in the queue or in workers' hands; None where the queue cannot be read.
        without_letter: Events that are dead or held by the ledger, without a dead letter to show for it.
    """

    producer: str
    epoch: UUID
    state: Literal["open", "closed", "silent"]
    sent: int
    outcomes: dict[str, int]
    dropped: dict[str, int]
    queued: int | None
    without_letter: int
    last_heard: datetime | None
    gaps: list[Gap] = field(default_factory=list)

    def in_gaps(self, state: GapState) -> int:
        """How many events are in gaps of this state."""
        return sum(gap.count for gap in self.gaps if gap.state == state)


@dataclass(frozen=True, slots=True)
class _Row:
    """What the database knows of one epoch."""

    epoch: UUID
    producer: str | None
    high_water: int | None
    is_closed: bool | None
    last_seen: datetime | None
    last_told: datetime | None
    outcomes: list[str] | None
    seqs: list[Any] | None
    dropped_reasons: list[str | None] | None
    dropped_seqs: list[Any] | None
    lettered: Any
    discarded: Any
    now: datetime


@contextmanager
def begin_audit(connection: Connection) -> Iterator[None]:
    """A transaction that sees one state of the database for as long as it takes. Begin it after the look at the queue."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        connection.execute("SET LOCAL statement_timeout = 0")
        yield


def audit_epochs(connection: Connection, rules: Rules, look: QueueLook | None) -> Iterator[EpochAudit]:
    """
    Settle every epoch, by producer and start.

    Args:
        connection: In a transaction of `begin_audit`.
        rules: What is audited, and how patiently.
        look: What waits on the broker, None if the broker did not say.
    """
    queued = dict(look.events) if look is not None and look.is_readable else {}
    with connection.cursor("audit", row_factory=class_row(_Row)) as rows:
        rows.itersize = _EPOCHS_PER_FETCH
        rows.execute(_AUDIT, {"producer": rules.producer, "since": rules.since, "epoch": rules.epoch})
        for row in rows:
            yield _settle(connection, row, rules, look, queued.pop(row.epoch, []))
    if look is not None:
        unheard = (epoch for epoch in queued if not _is_told(connection, epoch))
        yield from (_settle_queued(epoch, look, rules) for epoch in unheard if _is_asked(epoch, look, rules))


def _settle(connection: Connection, row: _Row, rules: Rules, look: QueueLook | None, queued: list[SeqRange]) -> EpochAudit:
    outcomes = {name: seq_ranges.from_multirange(seqs) for name, seqs in zip(row.outcomes or (), row.seqs or (), strict=True)}
    ended = seq_ranges.join(part for ranges in outcomes.values() for part in ranges)
    waiting = seq_ranges.subtract(queued, ended)
    above_queue = look.high_water.get(row.epoch, 0) if look is not None else 0
    sent = max(row.high_water or 0, above_queue, ended[-1][1] + 1 if ended else 0)
    found = EpochAudit(
        row.producer or (look.producers.get(row.epoch, "") if look is not None else ""),
        row.epoch,
        "open",
        sent,
        {name: seq_ranges.count(outcomes[name]) for name in PRECEDENCE if name in outcomes},
        _dropped(row, outcomes.get("dropped", [])),
        seq_ranges.count(waiting) if look is not None and look.is_readable else None,
        _without_letter(row, outcomes),
        max(filter(None, (row.last_seen, row.last_told)), default=None),
    )
    found.state = _state(bool(row.is_closed), found.last_heard, row.now, rules)
    missed = seq_ranges.subtract([(0, sent - 1)] if sent else [], [*ended, *waiting])
    if missed:
        told = find_told(connection, row.epoch, missed)
        mark = Mark(row.high_water or 0, row.last_seen)
        found.gaps = list(place_gaps(row.epoch, missed, told, mark, Patience(row.now, rules.grace_s, _may_be_queued(look))))
    return found


def _settle_queued(epoch: UUID, look: QueueLook, rules: Rules) -> EpochAudit:
    """An epoch of which the database has not heard yet."""
    queued, sent = look.events[epoch], look.high_water[epoch]
    found = EpochAudit(look.producers[epoch], epoch, "open", sent, {}, {}, seq_ranges.count(queued), 0, None)
    missed = seq_ranges.subtract([(0, sent - 1)] if sent else [], queued)
    # All that is known of it is news of this moment, whatever the time is.
    patience = Patience(datetime.now(UTC), rules.grace_s, _may_be_queued(look))
    found.gaps = list(place_gaps(epoch, missed, [Told(None, None)] * len(missed), Mark(0, None), patience))
    return found


def _may_be_queued(look: QueueLook | None) -> bool:
    return look is None or look.may_hide_events


def _state(is_closed: bool, last_heard: datetime | None, now: datetime, rules: Rules) -> Literal["open", "closed", "silent"]:
    if is_closed:
        return "closed"
    is_silent = last_heard is not None and now - last_heard > timedelta(seconds=rules.silent_after_s)
    return "silent" if is_silent else "open"


def _dropped(row: _Row, dropped: list[SeqRange]) -> dict[str, int]:
    """By reason; numbers that ended otherwise all the same are not among them."""
    by_reason = zip(row.dropped_reasons or (), row.dropped_seqs or (), strict=True)
    counts = {
        reason or "": seq_ranges.count(seq_ranges.intersect(seq_ranges.from_multirange(seqs), dropped))
        for reason, seqs in by_reason
    }
    return {reason: number for reason, number in counts.items() if number}


def _without_letter(row: _Row, outcomes: dict[str, list[SeqRange]]) -> int:
    ended = [*outcomes.get("dead", ()), *outcomes.get("held", ())]
    accounted = [*seq_ranges.from_multirange(row.lettered), *seq_ranges.from_multirange(row.discarded)]
    return seq_ranges.count(seq_ranges.subtract(ended, accounted))


def _is_told(connection: Connection, epoch: UUID) -> bool:
    """Whether the database knows an epoch that the filters have left out."""
    query = (
        "SELECT FROM penstock.producers WHERE epoch = %(e)s UNION ALL SELECT FROM penstock.ledger WHERE epoch = %(e)s LIMIT 1"
    )
    return connection.execute(query, {"e": epoch}).fetchone() is not None


def _is_asked(epoch: UUID, look: QueueLook, rules: Rules) -> bool:
    return rules.producer in (None, look.producers[epoch]) and rules.epoch in (None, epoch)


#: A letter without an event id stands for a whole message, which had at most so many events; the next letter ends it.
_LETTERED = sql.SQL(
    "SELECT epoch, range_agg(int8range(seq, least(next, seq + CASE WHEN event_id IS NULL THEN {many} ELSE 1 END))) AS seqs"
    " FROM (SELECT epoch, seq, event_id, lead(seq) OVER (PARTITION BY epoch ORDER BY seq) AS next"
    " FROM penstock.dead_letters WHERE epoch IN (SELECT epoch FROM chosen) AND seq IS NOT NULL) AS letters GROUP BY epoch"
).format(many=sql.Literal(MAX_EVENTS_PER_MESSAGE))

_AUDIT = sql.SQL(
    """
    WITH told AS (SELECT epoch, max(at) AS last_told FROM penstock.ledger GROUP BY epoch),
    chosen AS (
        SELECT epoch, p.producer, p.high_water, p.is_closed, p.last_seen, told.last_told
        FROM penstock.producers p FULL JOIN told USING (epoch)
        WHERE (%(producer)s::text IS NULL OR p.producer = %(producer)s)
          AND (%(since)s::timestamptz IS NULL OR greatest(p.last_seen, told.last_told) >= %(since)s)
          AND (%(epoch)s::uuid IS NULL OR epoch = %(epoch)s)
    ),
    ended AS (SELECT epoch, array_agg(outcome) AS outcomes, array_agg(seqs) AS seqs FROM ({folded}) AS folded GROUP BY epoch),
    dropped AS (
        SELECT epoch, array_agg(reason) AS reasons, array_agg(seqs) AS seqs FROM (
            SELECT epoch, reason, range_agg(seqs) AS seqs FROM penstock.ledger
            WHERE outcome = 'dropped' GROUP BY epoch, reason ORDER BY reason
        ) AS by_reason GROUP BY epoch
    ),
    discarded AS (
        SELECT epoch, range_agg(seqs) AS seqs FROM penstock.ledger WHERE starts_with(reason, 'discarded') GROUP BY epoch
    ),
    lettered AS ({lettered})
    SELECT c.epoch, c.producer, c.high_water, c.is_closed, c.last_seen, c.last_told, ended.outcomes, ended.seqs,
           dropped.reasons AS dropped_reasons, dropped.seqs AS dropped_seqs, lettered.seqs AS lettered,
           discarded.seqs AS discarded, clock_timestamp() AS now
    FROM chosen c LEFT JOIN ended USING (epoch) LEFT JOIN dropped USING (epoch) LEFT JOIN discarded USING (epoch)
    LEFT JOIN lettered USING (epoch)
    ORDER BY c.producer, c.epoch
    """
).format(
    folded=folded(sql.SQL("(SELECT * FROM penstock.ledger WHERE epoch IN (SELECT epoch FROM chosen)) AS entries")),
    lettered=_LETTERED,
)
