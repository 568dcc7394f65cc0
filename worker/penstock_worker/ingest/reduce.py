"""
One row per key: what a set of events of one key amounts to.

The rules are those of the upsert (`store/upsert.py`), folded over a set instead of two rows. Most keys occur once in a batch,
with a full record; those skip this module (`is_plain`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock_schemas.column import Rule
from penstock_schemas.record import RecordType
from penstock_worker.ingest.message import Event, Stamp
from penstock_worker.ingest.outcome import Verdict
from penstock_worker.store.privacy.erased import ERASED

__all__ = ["Row", "Tombstone", "fold", "is_plain", "stamp_text"]

_BASES = {Rule.NEWEST: "@full", Rule.STATE: "@state", Rule.FIRST: "@first"}


@dataclass(slots=True)
class Row:
    """A row to be merged; see the module docstring of `store/upsert.py` for `stamps`. All empty: a placeholder."""

    key: tuple[Any, ...]
    values: dict[str, Any] = field(default_factory=dict)
    newest: Stamp | None = None
    oldest: int | None = None
    deleted: Stamp | None = None
    stamps: dict[str, str] | None = None
    extra: dict[str, Any] | None = None


@dataclass(slots=True)
class Tombstone:
    """
    What is written of an event of an erased person: that its row is gone, up to a version.

    Args:
        key: As an event has it.
        version: The highest that is refused.
        oldest: The event's own, by which the row falls with its parent.
        subject: Who was erased, as text; None where it is the parent that was.
    """

    key: tuple[Any, ...]
    version: int
    oldest: int
    subject: str | None = None

    def end(self, verdict: Verdict) -> None:
        """A key that cannot be written has no row; the event has ended already."""


def stamp_text(stamp: Stamp) -> str:
    """A stamp as text that sorts like it; `penstock.stamp` in SQL."""
    version, event_id = stamp
    return f"{version:016x}{event_id.replace('-', '')}"


def is_plain(event: Event) -> bool:
    """Whether the event alone makes a plain row: an upsert of every column and of nothing else."""
    return not event.is_delete and event.data.keys() == event.record.by_name.keys()


def fold(record: RecordType, events: Iterable[Event], tombstones: Sequence[Tombstone] = ()) -> Row:
    """The row that events and tombstones of one key make, in any order and however often each occurs."""
    events = list(events)
    upserts = [event for event in events if not event.is_delete]
    deleted = _deleted(events, tombstones)
    versions = [*(event.version for event in upserts), *(tombstone.oldest for tombstone in tombstones)]
    key = events[0].key if events else tombstones[0].key
    row = Row(key, deleted=deleted, oldest=min(versions, default=None))
    live = _living(record, upserts, deleted)
    if live:
        row.newest = max(event.stamp for event in live)
        bases = _bases(record, live)
        winners = _winners(record, live)
        row.values = {name: value for name, (_, value) in winners.items() if not name.startswith("+")}
        row.extra = {name[1:]: value for name, (_, value) in winners.items() if name.startswith("+")} or None
        stamps = {name: stamp for name, (stamp, _) in winners.items() if _is_exception(record, name, stamp, bases)}
        row.stamps = None if _is_row_plain(bases, stamps, row.newest) else {**bases, **stamps}
    return row


def _deleted(events: Iterable[Event], tombstones: Sequence[Tombstone]) -> Stamp | None:
    """The last delete. That of an erasure stays one, also if a later delete takes it further."""
    deletes = [event.stamp for event in events if event.is_delete]
    if not tombstones:
        return max(deletes, default=None)
    return max(*(version for version, _ in deletes), *(tombstone.version for tombstone in tombstones), -1), ERASED


def _living(record: RecordType, upserts: list[Event], deleted: Stamp | None) -> list[Event]:
    if deleted is None:
        return upserts
    return [] if record.is_delete_final else [event for event in upserts if event.stamp > deleted]


def _bases(record: RecordType, live: list[Event]) -> dict[str, str]:
    """The stamps of the full events, by which most columns go."""
    full = [event for event in live if event.data.keys() >= record.by_name.keys()]
    if not full:
        return {}
    bases = {"@full": max(stamp_text(event.stamp) for event in full)}
    if record.declaration.lifecycle:
        bases["@state"] = max(_ranked(record, event) for event in full)
    if record.has_first:
        bases["@first"] = min(stamp_text(event.stamp) for event in full)
    return bases


def _ranked(record: RecordType, event: Event) -> str:
    lifecycle = record.declaration.lifecycle
    is_terminal = lifecycle is not None and event.data.get(lifecycle.field) in lifecycle.terminal
    return f"{int(is_terminal)}{stamp_text(event.stamp)}"


def _winners(record: RecordType, live: list[Event]) -> dict[str, tuple[str, Any]]:
    """Per column, and per unknown field with a plus before its name: the winning stamp and value."""
    winners: dict[str, tuple[str, Any]] = {}
    for event in live:
        plain, ranked = stamp_text(event.stamp), _ranked(record, event)
        for name, value in event.data.items():
            if name in record.key:
                continue
            column = record.by_name.get(name)
            rule = column.rule if column else Rule.NEWEST
            label = name if column else f"+{name}"
            offered = (ranked if rule is Rule.STATE else plain, value)
            if label not in winners or _beats(rule, offered, winners[label]):
                winners[label] = offered
    return winners


def _beats(rule: Rule, offered: tuple[str, Any], held: tuple[str, Any]) -> bool:
    if rule in (Rule.MIN, Rule.MAX):
        if offered[1] is None or held[1] is None:
            return held[1] is None
        return bool(offered[1] < held[1] if rule is Rule.MIN else offered[1] > held[1])
    return offered[0] < held[0] if rule is Rule.FIRST else offered[0] > held[0]


def _is_exception(record: RecordType, name: str, stamp: str, bases: dict[str, str]) -> bool:
    """Whether a column's stamp must be kept because its base does not tell it."""
    if name.startswith("+"):
        return True
    rule = record.by_name[name].rule
    if rule in (Rule.MIN, Rule.MAX):
        return False
    base = bases.get(_BASES[rule])
    return base is None or (stamp < base if rule is Rule.FIRST else stamp > base)


def _is_row_plain(bases: dict[str, str], stamps: dict[str, str], newest: Stamp) -> bool:
    text = stamp_text(newest)
    return bool(bases) and not stamps and all(base[-len(text) :] == text for base in bases.values())
