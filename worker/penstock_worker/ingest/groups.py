"""The events of a batch by table, and which of them must be looked at one by one before anything is written."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any
from uuid import UUID

from penstock_schemas.record import RecordType
from penstock_worker.ingest.block import Block, Key
from penstock_worker.ingest.message import Envelope, Event
from penstock_worker.ingest.reduce import Tombstone

__all__ = ["Group", "Groups", "comparable", "groups_of", "with_repeated_keys"]


@dataclass(slots=True)
class Group:
    """What is written to one table: single events, events in blocks, and what is written in place of refused ones."""

    events: list[Event] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    tombstones: list[Tombstone] = field(default_factory=list)

    @property
    def record(self) -> RecordType | None:
        """The type of them all; None where there is nothing."""
        if self.events:
            return self.events[0].record
        return self.blocks[0].record if self.blocks else None


#: By record type.
Groups = dict[str, Group]


def groups_of(events: Iterable[Event], blocks: Iterable[Block]) -> Groups:
    """A batch by table."""
    groups: Groups = defaultdict(Group)
    for event in events:
        groups[event.record.name].events.append(event)
    for block in blocks:
        groups[block.record.name].blocks.append(block)
    return groups


def with_repeated_keys(groups: Groups) -> Iterator[Envelope]:
    """The envelopes of blocks with a key that occurs again in the batch: their rows must be folded."""
    for group in groups.values():
        if not group.blocks:
            continue
        keys = [*chain.from_iterable(block.keys for block in group.blocks), *(comparable(event.key) for event in group.events)]
        if len(set(keys)) == len(keys):
            continue
        counts = Counter(keys)
        for block in group.blocks:
            yield from (envelope for key, envelope in zip(block.keys, block.envelopes, strict=True) if counts[key] > 1)


def comparable(key: tuple[Any, ...]) -> Key:
    """The key of a row as blocks have it, see `Key`."""
    return tuple(str(value) if isinstance(value, UUID) else value for value in key)
