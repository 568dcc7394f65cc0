r"""
Rows as the text of COPY, column by column.

Values are turned into text and escaped a column at a time, where Python's loops run in C. Few columns hold anything to escape:
one look at a column, joined by a character that no value can hold, tells.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json

from penstock_schemas.column import Column, Kind

__all__ = [
    "MAX_INDEXED_BYTES",
    "NULL",
    "Encoder",
    "encode",
    "encoder_of",
    "escaped",
    "join_columns",
    "join_lines",
    "json_texts",
    "unescaped",
]

NULL = "\\N"
#: Of one text in a key or an index; PostgreSQL has room for 2,704 bytes a row of a btree. It would take a longer text that it
#: can compress, but nobody can tell a producer which those are.
MAX_INDEXED_BYTES = 2_600
#: What PostgreSQL reads as hours and minutes from UTC, without the sign; RFC 3339 goes to 23:59.
MAX_OFFSET = "15:59"
#: PostgreSQL's text cannot store it, and decoding has refused it wherever it looks.
_NUL = "\x00"
#: In this order: the backslash first, lest it escape the escapes.
_ESCAPES = (("\\", "\\\\"), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t"))
_ESCAPED = {written: mark for mark, written in _ESCAPES}
_ESCAPE = re.compile(r"\\[\\nrt]")

#: Non-null values of a column to escaped text; raises ValueError for one that PostgreSQL would refuse or Python not read back.
Encoder = Callable[[Iterable[Any]], list[str]]


def encoder_of(column: Column, *, is_indexed: bool = False) -> Encoder:
    """How a column's values become text."""
    if isinstance(column.annotation, type) and issubclass(column.annotation, enum.Enum):
        return _enums
    if is_indexed and column.kind is Kind.TEXT:
        return _indexed_texts
    return _ENCODERS[column.kind]


def join_columns(columns: Sequence[Iterable[str]]) -> list[str]:
    """
    Columns of escaped text to one line a row.

    Raises:
        ValueError: Their lengths differ, so that values would stand in their neighbours' rows.
    """
    return list(map("\t".join, zip(*columns, strict=True)))


def join_lines(lines: Iterable[str]) -> bytes:
    """Lines to what COPY reads."""
    return "\n".join([*lines, ""]).encode()


def escaped(texts: list[str]) -> list[str]:
    """Texts as they stand between the tabs of COPY."""
    joined = _NUL.join(texts)
    if not any(mark in joined for mark, _ in _ESCAPES):
        return texts
    parts = _without_marks(joined).split(_NUL)
    # A NUL that is in a text after all would shift its neighbours: PostgreSQL is to refuse it where it stands.
    return parts if len(parts) == len(texts) else list(map(_without_marks, texts))


def _without_marks(text: str) -> str:
    for mark, written in _ESCAPES:
        text = text.replace(mark, written)
    return text


def unescaped(text: str) -> str:
    """A text as it was before `escaped`."""
    return _ESCAPE.sub(lambda match: _ESCAPED[match[0]], text) if "\\" in text else text


def encode(encoder: Encoder, values: Sequence[Any]) -> list[str]:
    """A column's values, None among them, to text."""
    if None not in values:
        return encoder(values)
    texts = iter(encoder([value for value in values if value is not None]))
    return [NULL if value is None else next(texts) for value in values]


def _texts(values: Iterable[Any]) -> list[str]:
    return escaped(list(values))


def _indexed_texts(values: Iterable[Any]) -> list[str]:
    texts = list(values)
    if max(map(len, texts), default=0) * 4 > MAX_INDEXED_BYTES:  # no character has more than four bytes
        for text in texts:
            size = len(text.encode())
            if size > MAX_INDEXED_BYTES:
                raise ValueError(f"{size:,} bytes, a text in a key or an index may have {MAX_INDEXED_BYTES:,}")
    return escaped(texts)


def _str(values: Iterable[Any]) -> list[str]:
    return list(map(str, values))


def _enums(values: Iterable[Any]) -> list[str]:
    return escaped([str(value.value) for value in values])


def _booleans(values: Iterable[Any]) -> list[str]:
    return ["t" if value else "f" for value in values]


def _times(values: Iterable[datetime]) -> list[str]:
    """
    Times as ISO 8601.

    Near the ends of the calendar an offset leads out of what Python reads back, so these are looked at more closely.
    """
    times = list(values)
    texts = list(map(str, times))
    if texts and (min(texts) < "0002" or max(texts) >= "9999"):
        for value in times:
            _check_calendar(value)
    if any(zone[1:] > MAX_OFFSET for zone in {text[-6:] for text in texts}):
        return [str(value.astimezone(UTC)) for value in times]
    return texts


def _check_calendar(value: datetime) -> None:
    try:
        value.astimezone(UTC)
    except OverflowError as exc:
        raise ValueError(f"{value} is outside the years 1 to 9999 in UTC") from exc


def json_texts(values: Iterable[Any]) -> list[str]:
    """JSON. A number such as 1e400 has become Infinity here, which jsonb does not have."""
    values = list(values)
    # All in one call, apart from each other by what no value can hold.
    listed = [part for value in values for part in (_NUL, value)]
    text = to_json(listed, inf_nan_mode="constants").decode()
    if "Infinity" in text or "NaN" in text:  # a number, or a word in some text
        for value in values:
            _check_finite(value)
    parts = text[len(_FIRST) : -1].split(_BETWEEN) if values else []
    if len(parts) != len(values):  # one holds a NUL after all: it must not shift its neighbours
        parts = [to_json(value, inf_nan_mode="constants").decode() for value in values]
    return escaped(parts)


#: What stands before the first value in the JSON of them all, and between two.
_FIRST = '["\\u0000",'
_BETWEEN = ',"\\u0000",'


def _check_finite(value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number in it is above 1.8e308, or NaN")
    for part in [*value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_finite(part)


_ENCODERS: dict[Kind, Encoder] = {
    Kind.TEXT: _texts,
    Kind.BIGINT: _str,
    Kind.DOUBLE: _str,
    Kind.BOOLEAN: _booleans,
    Kind.TIMESTAMPTZ: _times,
    Kind.DATE: _str,
    Kind.UUID: _str,
    Kind.NUMERIC: _str,
    Kind.JSONB: json_texts,
}
