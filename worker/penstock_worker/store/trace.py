"""
What the database says of one event.

Its id holds most of its epoch and its number, see `penstock_schemas.wire`. The ledger knows how it ended, but not in which row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from psycopg.rows import class_row

from penstock_schemas import Registry
from penstock_schemas.answer import PRECEDENCE
from penstock_worker.redis_look import Seen
from penstock_worker.store.connection import Connection
from penstock_worker.store.gaps import Gap, Mark, Patience, find_told, place_gaps
from penstock_worker.store.row_trace import LetterSeen, RowTrace, find_row_of_event

__all__ = ["EventTrace", "Noted", "trace_event"]

#: The number is the last 48 bits of an event's id.
SEQ_BITS = 48
_LETTER = """
    SELECT id, state, reason, detail, event_id, producer, at FROM (
        SELECT *, 1 AS place FROM penstock.dead_letters WHERE id = %(id)s
        UNION ALL SELECT *, 2 FROM penstock.dead_letters
        WHERE epoch = %(epoch)s AND seq <= %(seq)s AND event_id IS NULL AND %(is_lettered)s
    ) AS letters ORDER BY place, seq DESC LIMIT 1
"""


class Noted(NamedTuple):
    """The ledger's word on an event; several after a redelivery or a replay."""

    outcome: str
    reason: str | None
    at: datetime


class _Producer(NamedTuple):
    epoch: UUID
    producer: str | None
    high_water: int
    is_closed: bool
    last_seen: datetime | None


@dataclass(slots=True)
class EventTrace:
    """
    One event.

    Args:
        state:
            An outcome; `queued`; what its gap is, see `gaps`; `not_given`: its producer has not told of a number so high; or
            `unknown`: nothing is known of its producer.
        noted: What the ledger says, the oldest first.
        seen: The message in the queue that holds it.
        gap: If its number is missing, when it was published.
        row: The row that holds something of it.
        unsearched: Types whose rows took too long to search.
    """

    event_id: UUID
    state: str
    seq: int | None = None
    epoch: UUID | None = None
    producer: str | None = None
    high_water: int = 0
    is_closed: bool = False
    last_heard: datetime | None = None
    noted: list[Noted] = field(default_factory=list)
    letter: LetterSeen | None = None
    seen: Seen | None = None
    gap: Gap | None = None
    row: RowTrace | None = None
    unsearched: list[str] = field(default_factory=list)


def trace_event(
    connection: Connection,
    registry: Registry,
    event_id: UUID,
    seen: Seen | None,
    grace_s: float,
    *,
    may_be_queued: bool,
    needs_row: bool = True,
) -> EventTrace:
    """
    Where an event is.

    Args:
        connection: May read.
        registry: The types whose rows are searched.
        event_id: The event's.
        seen: The message that holds it, if the queue was found to have one before.
        grace_s: Seconds after which a gap is missing.
        may_be_queued: Whether it may wait where nobody can look.
        needs_row: Whether its row is searched; that may take seconds.
    """
    found = EventTrace(event_id, "unknown", seen=seen)
    producer = _find_producer(connection, event_id)
    if producer is not None or seen is not None:
        found.seq = event_id.int & (1 << SEQ_BITS) - 1
        found.epoch, found.producer = (seen.epoch, seen.producer) if seen is not None else (None, None)
    if producer is not None:
        _read_ledger(connection, found, producer)
    found.letter = _find_letter(connection, found)
    found.state = _state(connection, found, producer, grace_s, may_be_queued=may_be_queued)
    if needs_row and found.state in ("stored", "superseded", "unknown"):
        found.row, found.unsearched = find_row_of_event(connection, registry, event_id)
        if found.row is not None and found.state == "unknown":
            found.state = "stored"  # of a producer that keeps no numbers
    return found


def _find_producer(connection: Connection, event_id: UUID) -> _Producer | None:
    """By the bits of the epoch that the id has: its version is 8 where the epoch's is 7, its last 48 bits are the number."""
    first = event_id.int >> SEQ_BITS << SEQ_BITS & ~(0xF << 76) | 7 << 76
    bounds = {"first": UUID(int=first), "last": UUID(int=first | (1 << SEQ_BITS) - 1)}
    with connection.cursor(row_factory=class_row(_Producer)) as cursor:
        return cursor.execute(
            "SELECT epoch, producer, high_water, is_closed, last_seen FROM penstock.producers"
            " WHERE epoch BETWEEN %(first)s AND %(last)s UNION ALL"
            " SELECT epoch, NULL, 0, false, NULL FROM penstock.ledger WHERE epoch BETWEEN %(first)s AND %(last)s LIMIT 1",
            bounds,
        ).fetchone()


def _read_ledger(connection: Connection, found: EventTrace, producer: _Producer) -> None:
    found.epoch, found.producer, found.is_closed = producer.epoch, producer.producer, producer.is_closed
    with connection.cursor(row_factory=class_row(Noted)) as cursor:
        found.noted = cursor.execute(
            "SELECT outcome, reason, at FROM penstock.ledger WHERE epoch = %s AND seqs @> %s::bigint ORDER BY at",
            [producer.epoch, found.seq],
        ).fetchall()
    row = connection.execute(
        "SELECT coalesce(max(upper(seqs)), 0), max(at) FROM penstock.ledger WHERE epoch = %s", [producer.epoch]
    ).fetchone()
    high_water, told_at = row or (0, None)
    found.high_water = max(producer.high_water, int(str(high_water)))
    times = [time for time in (producer.last_seen, told_at) if isinstance(time, datetime)]
    found.last_heard = max(times, default=None)


def _find_letter(connection: Connection, found: EventTrace) -> LetterSeen | None:
    """The event's own, or that of a whole message which could not be read."""
    is_lettered = any(noted.outcome in ("dead", "held") for noted in found.noted)
    parameters = {"id": found.event_id, "epoch": found.epoch, "seq": found.seq, "is_lettered": is_lettered}
    with connection.cursor(row_factory=class_row(LetterSeen)) as cursor:
        return cursor.execute(_LETTER, parameters).fetchone()


def _state(
    connection: Connection, found: EventTrace, producer: _Producer | None, grace_s: float, *, may_be_queued: bool
) -> str:
    outcomes = {noted.outcome for noted in found.noted}
    if outcomes:
        return next(outcome for outcome in PRECEDENCE if outcome in outcomes)
    if found.seen is not None:
        return "queued"
    if found.letter is not None:
        return found.letter.state
    if producer is None or found.seq is None:
        return "unknown"
    if found.seq >= found.high_water:
        return "not_given"
    found.gap = _gap(connection, producer, found.seq, grace_s, may_be_queued=may_be_queued)
    return found.gap.state


def _gap(connection: Connection, producer: _Producer, seq: int, grace_s: float, *, may_be_queued: bool) -> Gap:
    now: datetime
    (now,) = connection.execute("SELECT now()").fetchone() or ()  # type: ignore[assignment]  # a row with a time
    missed = [(seq, seq)]
    with connection.transaction():
        told = find_told(connection, producer.epoch, missed)
    mark = Mark(producer.high_water, producer.last_seen)
    (gap,) = place_gaps(producer.epoch, missed, told, mark, Patience(now, grace_s, may_be_queued))
    return gap
