"""
Events that need no closer look, as columns: what the usual message is made of.

A `Block` holds upserts of one type that set the same fields, of all messages of a batch; their values are already the text that
COPY reads, and no object is made of an event. Where one is wanted after all, because its key occurs twice in the batch, because
its time forbids it or because PostgreSQL refuses something, the message leaves its blocks and is read by the validators.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import compress
from typing import Any, TypeVar

from penstock_schemas.record import RecordType
from penstock_worker.ingest.message import Envelope

__all__ = ["Block", "Key"]

T = TypeVar("T")
#: What rows are sorted by: the values of the key, UUIDs as text; of an append-only record without the time.
Key = tuple[int | str, ...]


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
        )

    def index(self, place: int) -> int:
        """The place of an event in its envelope."""
        return int(self.ids[place][-12:], 16) - self.envelopes[place].seq
