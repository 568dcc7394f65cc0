"""
Events that need no closer look, as columns: what the usual message is made of.

A `Block` holds upserts of one type that set the same fields, of all messages of a batch; their values are already the text that
COPY reads, and no object is made of an event. Where one is wanted after all, because its key occurs twice in the batch, because
its time forbids it or because PostgreSQL refuses something, the message leaves its blocks and is read by the validators.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import chain, compress
from operator import attrgetter
from typing import Any, TypeVar

from penstock_schemas.record import RecordType
from penstock_worker.ingest.message import Envelope

__all__ = ["Block", "Key", "joined"]

T = TypeVar("T")
#: What rows are sorted by: the values of the key, UUIDs as text.
Key = tuple[int | str | datetime, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """
    Upserts of one type that set the same fields; every list has one element an event.

    Args:
        texts: The set columns, in the order of the record's, as the text of COPY.
        keys: See `Key`.
        parents: The parents' keys; empty for types without a parent.
        span: The first and the last time of append-only events.
    """

    record: RecordType
    envelopes: list[Envelope]
    versions: list[int]
    ids: list[str]
    texts: dict[str, list[str]]
    keys: list[Key]
    parents: list[Any] = field(default_factory=list)
    span: tuple[datetime, datetime] | None = None
    #: Places of events that turned out to be superseded; all others are stored.
    superseded: set[int] = field(default_factory=set)
    #: Places of events of erased people; of these a tombstone is written, see `fence`.
    fenced: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.versions)

    @property
    def is_full(self) -> bool:
        """Whether every column is set."""
        return len(self.texts) == len(self.record.columns)

    def without(self, envelopes: Collection[int]) -> Block:
        """The block without the events of some envelopes, which are named by `id`."""
        stays = [id(envelope) not in envelopes for envelope in self.envelopes]

        def rest(values: Iterable[T]) -> list[T]:
            return list(compress(values, stays))

        return replace(
            self,
            envelopes=rest(self.envelopes),
            versions=rest(self.versions),
            ids=rest(self.ids),
            texts={name: rest(texts) for name, texts in self.texts.items()},
            keys=rest(self.keys),
            parents=rest(self.parents),
            superseded=set(),
            fenced=set(),
        )

    def index(self, place: int) -> int:
        """The place of an event in its envelope, which must be one of ours: the ids of foreign events do not tell."""
        return int(self.ids[place][-12:], 16) - self.envelopes[place].seq


def joined(blocks: Iterable[Block]) -> list[Block]:
    """The same events in as few blocks as can be."""
    alike: dict[tuple[str, ...], list[Block]] = defaultdict(list)
    for block in blocks:
        alike[block.record.name, *block.texts].append(block)
    return [_join(parts) for parts in alike.values()]


def _join(blocks: list[Block]) -> Block:
    first = blocks[0]
    if len(blocks) == 1:
        return first

    def all_of(values: Callable[[Block], Iterable[T]]) -> list[T]:
        return list(chain.from_iterable(map(values, blocks)))

    def texts_of(name: str) -> list[str]:
        return all_of(lambda block: block.texts[name])

    spans = [block.span for block in blocks if block.span]
    return Block(
        first.record,
        all_of(attrgetter("envelopes")),
        all_of(attrgetter("versions")),
        all_of(attrgetter("ids")),
        {name: texts_of(name) for name in first.texts},
        all_of(attrgetter("keys")),
        all_of(attrgetter("parents")),
        (min(span[0] for span in spans), max(span[1] for span in spans)) if spans else None,
    )
