r"""
Rows as the text of COPY, column by column.

Values are turned into text a column at a time, where Python's loops run in C, and escaped a batch at a time. To know what to
escape, the batch is joined with marks that no value can hold: NUL, which PostgreSQL's text cannot store and decoding has
refused, and two lone surrogates, which are no characters.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json

from penstock_schemas.column import Column, Kind

__all__ = ["MAX_INDEXED_BYTES", "NULL", "Encoder", "encode", "encoder_of", "escape", "join_columns", "json_texts"]

NULL = "\ud801"
#: Of one text in a key or an index; PostgreSQL has room for 2,704 bytes a row of a btree. It would take a longer text that it
#: can compress, but nobody can tell a producer which those are.
MAX_INDEXED_BYTES = 2_600
#: What PostgreSQL reads as hours and minutes from UTC, without the sign; RFC 3339 goes to 23:59.
MAX_OFFSET = "15:59"
_FIELD_END = "\x00"
_ROW_END = "\ud800"

#: All non-null values of a column to text; raises ValueError for one that PostgreSQL would refuse or Python not read back.
Encoder = Callable[[Iterable[Any]], list[str]]


def encoder_of(column: Column, *, is_indexed: bool = False) -> Encoder:
    """How a column's values become text."""
    if isinstance(column.annotation, type) and issubclass(column.annotation, enum.Enum):
        return _enums
    if is_indexed and column.kind is Kind.TEXT:
        return _indexed_texts
    return _ENCODERS[column.kind]


def join_columns(columns: Sequence[Iterable[str]]) -> list[str]:
    """Columns of text to one marked line a row."""
    return list(map(_FIELD_END.join, zip(*columns, strict=False)))


def escape(lines: Iterable[str]) -> bytes:
    """Marked lines to what COPY reads."""
    text = _ROW_END.join(lines) + _ROW_END
    for mark, written in _ESCAPES:
        text = text.replace(mark, written)
    return text.encode()


#: In this order: the backslash first, lest it escape the escapes.
_ESCAPES = (
    ("\\", "\\\\"),
    ("\n", "\\n"),
    ("\r", "\\r"),
    ("\t", "\\t"),
    (_FIELD_END, "\t"),
    (_ROW_END, "\n"),
    (NULL, "\\N"),
)


def encode(encoder: Encoder, values: Sequence[Any]) -> list[str]:
    """A column's values, None among them, to text."""
    if None not in values:
        return encoder(values)
    texts = iter(encoder([value for value in values if value is not None]))
    return [NULL if value is None else next(texts) for value in values]


def _texts(values: Iterable[Any]) -> list[str]:
    return values if isinstance(values, list) else list(values)


def _indexed_texts(values: Iterable[Any]) -> list[str]:
    texts = _texts(values)
    if max(map(len, texts), default=0) * 4 > MAX_INDEXED_BYTES:  # no character has more than four bytes
        for text in texts:
            size = len(text.encode())
            if size > MAX_INDEXED_BYTES:
                raise ValueError(f"{size:,} bytes, a text in a key or an index may have {MAX_INDEXED_BYTES:,}")
    return texts


def _str(values: Iterable[Any]) -> list[str]:
    return list(map(str, values))


def _enums(values: Iterable[Any]) -> list[str]:
    return [str(value.value) for value in values]


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
    texts = [to_json(value, inf_nan_mode="constants").decode() for value in values]
    if any("Infinity" in text or "NaN" in text for text in texts):  # a number, or a word in some text
        for value in values:
            _check_finite(value)
    return texts


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
