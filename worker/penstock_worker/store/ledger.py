"""
The ledger: which numbers of which producer ended how, in the transaction that ended them.

Rows are only inserted, never counted up, so that a batch written twice says the same thing twice, and folding makes it once.

An event may end more than once: it is delivered again and superseded by itself, or a letter that was held is replayed. Folded
it has one outcome, the first of `PRECEDENCE` that was ever noted for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from psycopg import sql
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range

from penstock_schemas.answer import PRECEDENCE, SeqRange
from penstock_worker.seq_ranges import join
from penstock_worker.store.connection import Connection
from penstock_worker.store.copy_text import encode, escaped, join_columns, join_lines
from penstock_worker.store.foreign_text import storable

__all__ = [
    "Entry",
    "Folded",
    "Sighting",
    "find_outcomes",
    "fold",
    "folded",
    "merge_entries",
    "record_entries",
    "record_sightings",
]


class Entry(NamedTuple):
    """Numbers `first` to `last`, both included, that ended with one outcome."""

    epoch: UUID
    outcome: str
    reason: str | None
    first: int
    last: int


class Sighting(NamedTuple):
    """What an envelope says of its producer: numbers below `high_water` have been given."""

    epoch: UUID
    producer: str
    high_water: int
    is_closed: bool


class Folded(NamedTuple):
    """All numbers of an epoch with one outcome; between the outcomes of an epoch they are disjoint."""

    epoch: UUID
    outcome: str
    seqs: Multirange[int]


def folded(entries: sql.Composable | None = None) -> sql.Composed:
    """
    A SELECT of (epoch, outcome, seqs int8multirange), in which every number of an epoch has one outcome.

    Args:
        entries:
            The rows to fold: what stands in FROM, with the columns epoch, outcome and seqs; default: the whole ledger. All rows
            of a number must be among them.

    It takes one pass and does without `range_agg(multirange)`, which PostgreSQL 14 does not have.
    """
    of_each = [
        sql.SQL("coalesce(range_agg(seqs) FILTER (WHERE outcome = {}), '{{}}') AS {}").format(outcome, sql.Identifier(outcome))
        for outcome in PRECEDENCE
    ]
    without_stronger = [
        sql.SQL("({}, {})").format(outcome, sql.SQL(" - ").join(map(sql.Identifier, PRECEDENCE[place::-1])))
        for place, outcome in enumerate(PRECEDENCE)
    ]
    return sql.SQL(
        "SELECT epoch, one.outcome, one.seqs FROM (SELECT epoch, {} FROM {} GROUP BY epoch) AS each"
        " CROSS JOIN LATERAL (VALUES {}) AS one (outcome, seqs) WHERE NOT isempty(one.seqs)"
    ).format(
        sql.SQL(", ").join(of_each),
        entries or sql.SQL("penstock.ledger AS entries"),
        sql.SQL(", ").join(without_stronger),
    )


def fold(connection: Connection, epochs: Sequence[UUID] | None = None) -> list[Folded]:
    """What became of every number of these epochs, or of all epochs."""
    if epochs is None:
        rows = connection.execute(folded())
    else:
        some = sql.SQL("(SELECT * FROM penstock.ledger WHERE epoch = ANY (%s)) AS entries")
        rows = connection.execute(folded(some), [list(epochs)])
    return [Folded(*row) for row in rows.fetchall()]  # type: ignore[arg-type]  # the columns' types are known


def find_outcomes(connection: Connection, asked: Mapping[UUID, Sequence[SeqRange]]) -> list[Folded]:
    """What became of some numbers of some epochs: like `fold`, cut to what was asked. What is not in it is not known."""
    if not asked:
        return []
    # Only rows that touch what was asked are folded: an epoch may have many.
    touched = sql.SQL(
        "(SELECT l.epoch, l.outcome, l.seqs * part AS seqs"
        " FROM unnest(%s::uuid[], %s::int8multirange[]) AS asked (epoch, parts)"
        " JOIN penstock.ledger l ON l.epoch = asked.epoch AND l.seqs && asked.parts, unnest(asked.parts) AS part"
        " WHERE l.seqs && part) AS entries"
    )
    parts = [Multirange([Range(first, last + 1) for first, last in ranges]) for ranges in asked.values()]
    rows = connection.execute(folded(touched), [list(asked), [str(part) for part in parts]])
    return [Folded(*row) for row in rows.fetchall()]  # type: ignore[arg-type]  # the columns' types are known


def merge_entries(entries: Iterable[Entry]) -> list[Entry]:
    """Join what touches, so that a thousand messages of one event each leave one row."""
    ranges: dict[tuple[UUID, str, str | None], list[SeqRange]] = defaultdict(list)
    for epoch, outcome, reason, first, last in entries:
        ranges[epoch, outcome, reason].append((first, last))
    wholes = sorted(ranges, key=lambda whole: (whole[0], whole[1], whole[2] or ""))
    return [Entry(*whole, *part) for whole in wholes for part in join(ranges[whole])]


def record_entries(connection: Connection, entries: Sequence[Entry]) -> None:
    """Insert merged entries."""
    if not entries:
        return
    columns = [
        [str(entry.epoch) for entry in entries],
        [f"[{entry.first},{entry.last}]" for entry in entries],
        [entry.outcome for entry in entries],
        encode(_reasons, [entry.reason for entry in entries]),
    ]
    with connection.cursor().copy("COPY penstock.ledger (epoch, seqs, outcome, reason) FROM STDIN") as copy:
        copy.write(join_lines(join_columns(columns)))


def _reasons(texts: Iterable[str]) -> list[str]:
    return escaped(list(map(storable, texts)))


def record_sightings(connection: Connection, sightings: Iterable[Sighting]) -> None:
    """Remember producers; in the order of epochs, so that two batches never wait for each other in a circle."""
    latest: dict[UUID, Sighting] = {}
    for sighting in sightings:
        before = latest.get(sighting.epoch, sighting)
        is_closed = before.is_closed or sighting.is_closed
        high_water = max(before.high_water, sighting.high_water)
        latest[sighting.epoch] = Sighting(sighting.epoch, storable(sighting.producer), high_water, is_closed)
    rows = [latest[epoch] for epoch in sorted(latest)]
    if rows:
        connection.cursor().executemany(
            "INSERT INTO penstock.producers AS p (epoch, producer, high_water, is_closed) VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (epoch) DO UPDATE SET high_water = GREATEST(p.high_water, excluded.high_water), "
            "is_closed = p.is_closed OR excluded.is_closed, last_seen = now()",
            rows,
        )
