"""The events of one table as sorted lines of COPY."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat
from operator import attrgetter, itemgetter
from typing import Any

from penstock_schemas.record import RecordType
from penstock_worker.ingest.message import Event
from penstock_worker.ingest.outcome import Verdict
from penstock_worker.ingest.reduce import Row, fold, is_plain
from penstock_worker.store.copy_text import NULL, Encoder, encode, encoder_of, escape, join_columns, json_texts
from penstock_worker.store.upsert import UpsertPlan

__all__ = ["Placeholder", "Stage", "Staged", "Unwritable"]


#: In place of the name of a column, where it is none.
_UNKNOWN = "an unknown field"


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


@dataclass(frozen=True, slots=True)
class Staged:
    """What goes to COPY: `rows` lines in `data`, of which `is_simple` says that each is one whole event."""

    data: bytes
    rows: int
    is_simple: bool


@dataclass(frozen=True)
class Stage:
    """Turns the events of one record type into what COPY reads."""

    plan: UpsertPlan

    def lines(self, items: Iterable[Event | Placeholder], *, is_apart: bool = False) -> Staged:
        """
        One line per key, sorted by key: every worker locks rows in this one order.

        Args:
            items: What is to be written.
            is_apart: One line per event instead, also where several have one key.

        Raises:
            Unwritable: A value cannot be written, such as 1e400 in JSON.
        """
        plain, rows = self._single(items) if is_apart else self._split(items)
        pairs = [*self._plain_lines(plain), *self._row_lines(rows)]
        pairs.sort(key=itemgetter(0))
        return Staged(escape(line for _, line in pairs), len(pairs), is_simple=not rows)

    def unwritable(self, items: Sequence[Event | Placeholder]) -> list[tuple[Event | Placeholder, Unwritable]]:
        """
        Whose values cannot be written, and why; an item may be there for several columns.

        Value by value only in the columns where something is wrong: the good neighbours of a culprit cost next to nothing.
        """
        found: list[tuple[Event | Placeholder, Unwritable]] = []
        contents = [
            item.data if isinstance(item, Event) else dict(zip(self._record.key, item.key, strict=True)) for item in items
        ]
        for name, encoder in zip(self._names, self._encoders, strict=True):
            values = [content.get(name) for content in contents]
            found += _unwritable(name, encoder, list(zip(items, values, strict=True)))
        extras = [{name: content[name] for name in content.keys() - self._record.by_name.keys()} for content in contents]
        return found + _unwritable(_UNKNOWN, json_texts, list(zip(items, extras, strict=True)))

    def _split(self, items: Iterable[Event | Placeholder]) -> tuple[list[Event], list[Row]]:
        """Full records that are alone with their key, and the folded rows of all others."""
        by_key: dict[tuple[Any, ...], list[Event]] = defaultdict(list)
        placeholders = []
        for item in items:
            if isinstance(item, Event):
                by_key[item.key].append(item)
            else:
                placeholders.append(Row(item.key))
        plain, rows = [], placeholders
        for events in by_key.values():
            if len(events) == 1 and is_plain(events[0]):
                plain.append(events[0])
            else:
                rows.append(fold(self._record, events))
        return plain, rows

    def _single(self, items: Iterable[Event | Placeholder]) -> tuple[list[Event], list[Row]]:
        """Every event a row of its own."""
        return [], [fold(self._record, [item]) if isinstance(item, Event) else Row(item.key) for item in items]

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

    def _plain_lines(self, events: list[Event]) -> Iterable[tuple[Any, str]]:
        if not events:
            return ()
        columns = self._values_of([event.data for event in events])
        versions = list(map(str, map(attrgetter("version"), events)))
        columns += [versions, [event.id for event in events]]
        if self.plan.has_oldest:
            columns.append(versions)
        empty = 2 + 2 * self.plan.has_deletes
        lines = join_columns([*columns, *[repeat(NULL)] * empty])
        return zip([event.key for event in events], lines, strict=True)

    def _values_of(self, contents: Sequence[dict[str, Any]]) -> list[Any]:
        values = map(itemgetter(*self._names), contents)
        # itemgetter gives a single value bare, and the letters of a text would pass for columns.
        columns = zip(*(values if len(self._names) > 1 else zip(values, strict=True)), strict=True)
        parts = zip(self._names, self._encoders, columns, strict=True)
        return [_encoded(name, encoder, values) for name, encoder, values in parts]

    def _row_lines(self, rows: list[Row]) -> Iterable[tuple[Any, str]]:
        if not rows:
            return ()
        contents = [dict.fromkeys(self._names) | row.values | dict(zip(self._record.key, row.key, strict=True)) for row in rows]
        columns = [*self._values_of(contents), *self._stamp_columns("newest", rows)]
        if self.plan.has_oldest:
            columns.append([_or_null(row.oldest) for row in rows])
        if self.plan.has_deletes:
            columns += self._stamp_columns("deleted", rows)
        columns.append(encode(json_texts, [row.stamps for row in rows]))
        columns.append(_encoded(_UNKNOWN, json_texts, [row.extra for row in rows]))
        return zip([row.key for row in rows], join_columns(columns), strict=True)

    def _stamp_columns(self, name: str, rows: list[Row]) -> list[list[str]]:
        stamps = [getattr(row, name) or (None, None) for row in rows]
        return [[_or_null(stamp[place]) for stamp in stamps] for place in (0, 1)]


def _encoded(column: str, encoder: Encoder, values: Sequence[Any]) -> list[str]:
    try:
        return encode(encoder, values)
    except ValueError as exc:
        raise Unwritable(column, str(exc)) from exc


def _unwritable(
    column: str, encoder: Encoder, pairs: list[tuple[Event | Placeholder, Any]]
) -> list[tuple[Event | Placeholder, Unwritable]]:
    try:
        encode(encoder, [value for _, value in pairs])
    except ValueError as exc:
        if len(pairs) == 1:
            return [(pairs[0][0], Unwritable(column, str(exc)))]
        return [culprit for pair in pairs for culprit in _unwritable(column, encoder, [pair])]
    return []


def _or_null(value: int | str | None) -> str:
    return NULL if value is None else str(value)
