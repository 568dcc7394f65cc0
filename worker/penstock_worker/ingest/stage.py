"""The events of one table as sorted lines of COPY."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, repeat
from operator import attrgetter, itemgetter
from typing import Any

from penstock_schemas.column import Column, Rule
from penstock_schemas.record import RecordType
from penstock_worker.ingest.block import Block
from penstock_worker.ingest.groups import comparable
from penstock_worker.ingest.message import Event
from penstock_worker.ingest.outcome import Verdict
from penstock_worker.ingest.reduce import Row, Tombstone, fold, is_plain, stamp_text
from penstock_worker.store.copy_text import NULL, Encoder, encode, encoder_of, escaped, join_columns, join_lines, json_texts
from penstock_worker.store.upsert import UpsertPlan

__all__ = ["Culprit", "Item", "Placeholder", "Stage", "Staged", "Unwritable"]


#: In place of the name of a column, where it is none.
_UNKNOWN = "an unknown field"
#: Values that are tried together where a column holds some that cannot be written: few enough to end in few single ones.
_STEP = 32


class Unwritable(ValueError):  # noqa: N818  # what the value is
    """Raised when PostgreSQL would refuse the value of a column, or Python could not read it back."""

    def __init__(self, column: str, why: str) -> None:
        super().__init__(f"{column}: {why}")
        self.column = column


@dataclass(slots=True)
class Placeholder:
    """A parent that is not there yet, written empty so that its children's foreign key holds."""

    key: tuple[Any, ...]
    children: list[Event] = field(default_factory=list)

    def end(self, verdict: Verdict) -> None:
        """If it cannot be written, neither can its children."""
        for child in self.children:
            child.end(verdict)


Item = Event | Placeholder | Tombstone
Culprit = tuple[Item, Unwritable]
#: Rows with what they are made of, and the places of rows, in their list, that cannot be written.
_Made = tuple[Row, Sequence[Item]]
_Found = list[tuple[int, Unwritable]]


@dataclass(frozen=True, slots=True)
class Staged:
    """
    What goes to COPY: `rows` lines in `data`.

    `is_single` says that each is what one event says alone, or a placeholder; `is_plain` that they are full records besides.
    `culprits` are the items that have no line, for a value of theirs cannot be written; one is there as often as it has such.
    """

    data: bytes
    rows: int
    is_single: bool
    is_plain: bool
    culprits: list[Culprit] = field(default_factory=list)


@dataclass(frozen=True)
class Stage:
    """Turns the events of one record type into what COPY reads."""

    plan: UpsertPlan

    def lines(self, items: Iterable[Item], blocks: Sequence[Block] = (), *, is_apart: bool = False) -> Staged:
        """
        One line per key, sorted by key: every worker locks rows in this one order.

        Args:
            items: What is to be written.
            blocks: The same in columns; no key of theirs is repeated.
            is_apart: One line per event instead, also where several have one key.

        Raises:
            Unwritable: A value cannot be written, such as 1e400 in JSON, in a row that several events make.
        """
        plain, rows = self._single(items) if is_apart else self._split(items)
        culprits: list[Culprit] = []
        pairs = [*self._plain_lines(plain, culprits), *self._row_lines(rows, culprits)]
        if blocks:
            pairs = [(comparable(key), line) for key, line in pairs]
            pairs += chain.from_iterable(map(self._block_lines, blocks))
        pairs.sort(key=itemgetter(0))
        return Staged(
            join_lines(line for _, line in pairs),
            len(pairs),
            is_single=all(len(makers) == 1 for _, makers in rows),
            is_plain=not rows and all(block.is_full for block in blocks),
            culprits=culprits,
        )

    def unwritable(self, items: Sequence[Item]) -> list[Culprit]:
        """Whose values cannot be written, and why, whether or not they would get into a row."""
        contents = [
            item.data if isinstance(item, Event) else dict(zip(self._record.key, item.key, strict=True)) for item in items
        ]
        found: _Found = []
        self._values_of([dict.fromkeys(self._names) | content for content in contents], found)
        extras = [{name: content[name] for name in content.keys() - self._record.by_name.keys()} for content in contents]
        _encoded(_UNKNOWN, json_texts, extras, found)
        return [(items[place], why) for place, why in found]

    def _split(self, items: Iterable[Item]) -> tuple[list[Event], list[_Made]]:
        """Full records that are alone with their key, and the folded rows of all others."""
        by_key: dict[tuple[Any, ...], list[Event]] = defaultdict(list)
        tombstones: dict[tuple[Any, ...], list[Tombstone]] = defaultdict(list)
        plain: list[Event] = []
        rows: list[_Made] = []
        for item in items:
            if isinstance(item, Event):
                by_key[item.key].append(item)
            elif isinstance(item, Tombstone):
                tombstones[item.key].append(item)
            else:
                rows.append((Row(item.key), [item]))
        for key, events in by_key.items():
            if len(events) == 1 and key not in tombstones and is_plain(events[0]):
                plain.append(events[0])
            else:
                erased = tombstones.pop(key, [])
                rows.append((fold(self._record, events, erased), [*events, *erased]))
        rows += [(fold(self._record, (), erased), erased) for erased in tombstones.values()]
        return plain, rows

    def _single(self, items: Iterable[Item]) -> tuple[list[Event], list[_Made]]:
        """Every event a row of its own."""
        return [], [(self._row_of(item), [item]) for item in items]

    def _row_of(self, item: Item) -> Row:
        if isinstance(item, Event):
            return fold(self._record, [item])
        return fold(self._record, (), [item]) if isinstance(item, Tombstone) else Row(item.key)

    @property
    def _record(self) -> RecordType:
        return self.plan.record

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self._record.columns)

    @cached_property
    def _encoders(self) -> list[Encoder]:
        indexed = self._record.indexed
        return [encoder_of(column, is_indexed=column.name in indexed) for column in self._record.columns]

    def _block_lines(self, block: Block) -> Iterable[tuple[Any, str]]:
        versions = list(map(str, block.versions))
        nulls = [NULL] * len(block)
        columns: list[Iterable[str]] = [block.texts.get(name, nulls) for name in self._names]
        stamps = None if block.is_full else self._stamps_of(block)
        lines = join_columns([*columns, *self._bookkeeping(versions, block.ids, stamps)])
        pairs = zip(block.keys, lines, strict=True)
        return (pair for place, pair in enumerate(pairs) if place not in block.fenced) if block.fenced else pairs

    def _stamps_of(self, block: Block) -> Iterable[str]:
        """What `fold` makes of one partial record: each column that it sets has its stamp."""
        columns = [self._record.by_name[name] for name in block.texts if name not in self._record.key]
        stamped = [column for column in columns if column.rule not in (Rule.MIN, Rule.MAX)]
        templates = {rank: _template(stamped, rank) for rank in "01"}
        stamps = map(stamp_text, zip(block.versions, block.ids, strict=True))
        return [stamp.join(templates[rank]) for stamp, rank in zip(stamps, self._ranks_of(block), strict=True)]

    def _ranks_of(self, block: Block) -> Iterable[str]:
        lifecycle = self._record.declaration.lifecycle
        if lifecycle is None or lifecycle.field not in block.texts:
            return repeat("0", len(block))
        terminal = set(escaped(list(lifecycle.terminal)))
        return ["1" if state in terminal else "0" for state in block.texts[lifecycle.field]]

    def _bookkeeping(self, versions: list[str], ids: list[str], stamps: Iterable[str] | None = None) -> Iterator[Iterable[str]]:
        """The bookkeeping columns of events that are each a row; full records have no stamps."""
        nulls = [NULL] * len(versions)
        yield versions
        yield ids
        if self.plan.has_oldest:
            yield versions
        if self.plan.has_deletes:
            yield from (nulls, nulls)
        yield nulls if stamps is None else stamps
        yield nulls

    def _plain_lines(self, events: list[Event], culprits: list[Culprit]) -> Iterable[tuple[Any, str]]:
        if not events:
            return ()
        found: _Found = []
        columns = self._values_of([event.data for event in events], found)
        culprits += [(events[place], why) for place, why in found]
        versions = list(map(str, map(attrgetter("version"), events)))
        lines = join_columns([*columns, *self._bookkeeping(versions, [event.id for event in events])])
        return _without(found, zip([event.key for event in events], lines, strict=True))

    def _values_of(self, contents: Sequence[dict[str, Any]], found: _Found) -> list[Any]:
        values = map(itemgetter(*self._names), contents)
        # itemgetter gives a single value bare, and the letters of a text would pass for columns.
        columns = zip(*(values if len(self._names) > 1 else zip(values, strict=True)), strict=True)
        parts = zip(self._names, self._encoders, columns, strict=True)
        return [_encoded(name, encoder, values, found) for name, encoder, values in parts]

    def _row_lines(self, made: list[_Made], culprits: list[Culprit]) -> Iterable[tuple[Any, str]]:
        if not made:
            return ()
        rows = [row for row, _ in made]
        contents = [dict.fromkeys(self._names) | row.values | dict(zip(self._record.key, row.key, strict=True)) for row in rows]
        found: _Found = []
        columns = [*self._values_of(contents, found), *self._stamp_columns("newest", rows)]
        if self.plan.has_oldest:
            columns.append([_or_null(row.oldest) for row in rows])
        if self.plan.has_deletes:
            columns += self._stamp_columns("deleted", rows)
        columns.append(encode(json_texts, [row.stamps for row in rows]))
        columns.append(_encoded(_UNKNOWN, json_texts, [row.extra for row in rows], found))
        for place, why in found:
            _, makers = made[place]
            if len(makers) > 1:
                raise why
            culprits.append((makers[0], why))
        return _without(found, zip([row.key for row in rows], join_columns(columns), strict=True))

    def _stamp_columns(self, name: str, rows: list[Row]) -> list[list[str]]:
        stamps = [getattr(row, name) or (None, None) for row in rows]
        return [[_or_null(stamp[place]) for stamp in stamps] for place in (0, 1)]


def _without(found: _Found, lines: Iterable[tuple[Any, str]]) -> Iterable[tuple[Any, str]]:
    if not found:
        return lines
    places = {place for place, _ in found}
    return [line for place, line in enumerate(lines) if place not in places]


def _encoded(column: str, encoder: Encoder, values: Sequence[Any], found: _Found, first: int = 0) -> list[str]:
    """
    A column's values, from the place `first` on, to text; for those that cannot be written NULL, and their places in `found`.

    Value by value only near culprits: their good neighbours cost next to nothing.
    """
    try:
        return encode(encoder, values)
    except ValueError as exc:
        if len(values) == 1:
            found.append((first, Unwritable(column, str(exc))))
            return [NULL]
    step = _STEP if len(values) > _STEP else 1
    parts = ((place, values[place : place + step]) for place in range(0, len(values), step))
    return [text for place, part in parts for text in _encoded(column, encoder, part, found, first + place)]


def _template(columns: Sequence[Column], rank: str) -> list[str]:
    """What stands before, between and after the stamps of columns in the JSON of them all; `rank` is the event's."""
    names = [f'"{column.name}":"{rank if column.rule is Rule.STATE else ""}' for column in columns]
    return ["{" + names[0], *(f'",{name}' for name in names[1:]), '"}'] if names else ["{}"]


def _or_null(value: int | str | None) -> str:
    return NULL if value is None else str(value)
