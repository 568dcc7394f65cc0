"""
The ledger: which numbers of which producer ended how, in the transaction that ended them.

Rows are only inserted, never counted up, so that a batch written twice says the same thing twice, and folding
(`range_agg` by epoch and outcome) makes it once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

from penstock_worker.store.connection import Connection
from penstock_worker.store.copy_text import NULL, escape, join_columns
from penstock_worker.store.foreign_text import storable

__all__ = ["Entry", "Sighting", "merge_entries", "record_entries", "record_sightings"]


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


def merge_entries(entries: Iterable[Entry]) -> list[Entry]:
    """Join what touches, so that a thousand messages of one event each leave one row."""
    merged: list[Entry] = []
    for entry in sorted(entries, key=lambda entry: (entry.epoch, entry.outcome, entry.reason or "", entry.first)):
        before = merged[-1] if merged else None
        if before and before[:3] == entry[:3] and entry.first <= before.last + 1:
            merged[-1] = before._replace(last=max(before.last, entry.last))
        else:
            merged.append(entry)
    return merged


def record_entries(connection: Connection, entries: Sequence[Entry]) -> None:
    """Insert merged entries."""
    if not entries:
        return
    columns = [
        [str(entry.epoch) for entry in entries],
        [f"[{entry.first},{entry.last}]" for entry in entries],
        [entry.outcome for entry in entries],
        [NULL if entry.reason is None else storable(entry.reason) for entry in entries],
    ]
    with connection.cursor().copy("COPY penstock.ledger (epoch, seqs, outcome, reason) FROM STDIN") as copy:
        copy.write(escape(join_columns(columns)))


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
