"""Which events of a table turned out to be superseded: what they said is nowhere to be seen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from penstock_worker.ingest.block import Block, Key
from penstock_worker.ingest.groups import comparable
from penstock_worker.ingest.message import Event
from penstock_worker.ingest.outcome import Outcome
from penstock_worker.ingest.reduce import stamp_text
from penstock_worker.ingest.stage import Item

__all__ = ["supersede", "supersede_fallen"]


def supersede(rows: Iterable[tuple[Any, ...]], items: Iterable[Item], blocks: Iterable[Block], key_length: int) -> None:
    """
    Mark the events that left no trace: no column of their row holds their stamp.

    Args:
        rows: Keys and stamps; a key that is not among them is one of whose event there is no doubt.
        items: Single events.
        blocks: The others.
        key_length: Columns of the key.
    """
    traces: dict[Key, set[str]] = defaultdict(set)
    for row in rows:
        traces[comparable(row[:key_length])] |= _traces(*row[key_length:])
    for item in items:
        key = comparable(item.key)
        if isinstance(item, Event) and key in traces and stamp_text(item.stamp) not in traces[key]:
            item.outcome = Outcome.SUPERSEDED
    for block in blocks:
        for place, key in enumerate(block.keys):
            if key not in traces or place in block.fenced:
                continue
            if stamp_text((block.versions[place], block.ids[place])) not in traces[key]:
                block.superseded.add(place)


def supersede_fallen(events: Iterable[Event], blocks: Iterable[Block], field: str, deleted: Mapping[Any, int]) -> None:
    """
    Mark the children that are not newer than their parent's delete: they are written, for their version counts, but not seen.

    Args:
        events: Children, single ones.
        blocks: The others.
        field: What holds their parent's key in single events.
        deleted: The versions at which parents were deleted, by key.
    """
    for event in events:
        if not event.is_delete and event.verdict is None and event.version <= deleted.get(event.data[field], -1):
            event.outcome = Outcome.SUPERSEDED
    for block in blocks:
        parents = enumerate(zip(block.versions, block.parents, strict=True))
        fallen = {place for place, (version, key) in parents if version <= deleted.get(key, -1)}
        block.superseded.update(fallen - block.fenced)


def _traces(version: Any, event: Any, deleted_version: Any, deleted_event: Any, stamps: Any) -> set[str]:
    """The stamps that a row holds."""
    trace = {stamp[-48:] for stamp in (stamps or {}).values()}
    return trace | {stamp_text((v, str(e))) for v, e in ((version, event), (deleted_version, deleted_event)) if v is not None}
