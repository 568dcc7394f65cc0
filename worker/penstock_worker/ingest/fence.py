"""
Refusing what is said of erased people, before anything of it is written.

An event that names an erased person, and is not newer than the person's fence, ends as `fenced`; so does a child of a row that
was erased, by its parent. In its place a tombstone is written, final and empty: what came before it under the same key falls as
well, partial records and children that named nobody, and what comes after it finds it. So any order ends in the same rows.
Append-only records are just not written.

Events in blocks stay there, only their line is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from uuid import UUID

from penstock_schemas.column import Kind
from penstock_schemas.record import RecordType
from penstock_worker.ingest.block import Block
from penstock_worker.ingest.groups import Group, Groups
from penstock_worker.ingest.message import Event
from penstock_worker.ingest.outcome import Outcome, Verdict
from penstock_worker.ingest.reduce import Tombstone
from penstock_worker.store.copy_text import NULL, unescaped
from penstock_worker.store.privacy.fences import Fences, subject_of, subject_text

__all__ = ["FENCED", "refuse_children", "refuse_erased"]

FENCED = Verdict(Outcome.FENCED, "erased")


def refuse_erased(groups: Groups, fences: Fences) -> None:
    """Refuse the events that name an erased person; what is to be written in their place is in the groups afterwards."""
    for group in groups.values():
        record = group.record
        subject = None if record is None else subject_of(record)
        if record is None or subject is None:
            continue
        kind, has_tombstones = record.by_name[subject].kind, record.declaration.append_only is None
        for refused in (
            *_refused_events(group.events, subject, fences, kind),
            *(found for block in group.blocks for found in _refused_in(block, subject, fences, kind)),
        ):
            if has_tombstones:
                group.tombstones.append(refused)


def refuse_children(group: Group, field: str, erased: Mapping[Any, int]) -> None:
    """
    Refuse the children of erased rows.

    Args:
        group: The children, and what is to be written in their place afterwards.
        field: What holds their parent's key in single events.
        erased: The versions up to which parents were erased, by key.
    """
    for event in group.events:
        if event.verdict is None and not event.is_delete and event.version <= erased.get(event.data[field], -1):
            event.end(FENCED)
            group.tombstones.append(Tombstone(event.key, erased[event.data[field]], event.version))
    for block in group.blocks:
        for place, (version, parent) in enumerate(zip(block.versions, block.parents, strict=True)):
            if version <= erased.get(parent, -1) and place not in block.fenced:
                block.fenced.add(place)
                group.tombstones.append(Tombstone(_key(block, place), erased[parent], version))


def _refused_events(events: Iterable[Event], subject: str, fences: Fences, kind: Kind) -> Iterator[Tombstone]:
    named = [event for event in events if event.verdict is None and not event.is_delete and event.data.get(subject) is not None]
    if not named:
        return
    texts = [subject_text(event.data[subject]) for event in named]
    erased = fences.versions(kind, texts)
    for event, text in zip(named, texts, strict=True):
        version = erased.get(text, -1)
        if event.version <= version:
            event.end(FENCED)
            yield Tombstone(event.key, version, event.version, text)


def _refused_in(block: Block, subject: str, fences: Fences, kind: Kind) -> Iterator[Tombstone]:
    written = block.texts.get(subject)
    if written is None:
        return
    texts = {text: unescaped(text) for text in fences.doubtful(kind, set(written)) if text != NULL}
    erased = fences.versions(kind, texts.values())
    if not erased:
        return
    limits = {text: erased[plain] for text, plain in texts.items() if plain in erased}
    for place, (version, text) in enumerate(zip(block.versions, written, strict=True)):
        if version <= limits.get(text, -1):
            block.fenced.add(place)
            yield Tombstone(_key(block, place), limits[text], version, texts[text])


def _key(block: Block, place: int) -> tuple[Any, ...]:
    """As an event has it: blocks have UUIDs as text."""
    return tuple(_value(block.record, name, value) for name, value in zip(block.record.key, block.keys[place], strict=True))


def _value(record: RecordType, name: str, value: Any) -> Any:
    return UUID(value) if record.by_name[name].kind is Kind.UUID else value
