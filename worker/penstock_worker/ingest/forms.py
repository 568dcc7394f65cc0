"""
From the fields of a message to the text of COPY, a column at a time and without a Python object in between.

A `Field` reads only values in the form in which nearly all of them come, and must be sure of each: what it takes, the
validators take too, and it amounts to the same row. For everything else it raises `Odd`, and the validators decide. So a time
is its own text when it looks like a time that PostgreSQL and the validators read alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from operator import itemgetter
from typing import Annotated, Any, Literal, get_args, get_origin
from uuid import UUID

import msgspec
from pydantic import AwareDatetime, TypeAdapter

from penstock_schemas.column import Column
from penstock_worker.ingest.json_objects import JsonObjects
from penstock_worker.ingest.odd import Odd
from penstock_worker.ingest.validate import record_of_one
from penstock_worker.store.copy_text import MAX_OFFSET, Encoder, encode, encoder_of

__all__ = ["Field", "check_times", "field_of", "knows_neighbours"]


@dataclass(frozen=True, slots=True)
class Field:
    """
    How one column is read.

    `wire_type` is what msgspec makes of the JSON, null included. `to_texts` makes escaped text of a column of values, none of
    them NULL, and raises ValueError where it is not sure.
    """

    wire_type: Any
    to_texts: Encoder

    def texts(self, values: Sequence[Any]) -> list[str]:
        """A column's values, None among them, as the text of COPY."""
        if self.wire_type is msgspec.Raw:
            raws = list(map(bytes, values))
            values = [None if raw == b"null" else raw for raw in raws] if b"null" in raws else raws
        return encode(self.to_texts, values)


def field_of(column: Column, *, is_indexed: bool) -> Field:
    """The field of a column; `is_indexed` bounds the length of its texts."""
    annotation = column.annotation
    encoder = encoder_of(column, is_indexed=is_indexed)
    if isinstance(annotation, type) and annotation in _PLAIN:
        return Field(_PLAIN[annotation] | None, encoder)
    if isinstance(annotation, type) and annotation in _SHAPED:
        return Field(str | None, _SHAPED[annotation])
    if annotation == dict[str, Any]:
        return Field(msgspec.Raw, JsonObjects(_Validated(column, encoder)))
    if get_origin(annotation) is Literal and all(type(value) is str for value in get_args(annotation)):
        return Field(annotation | None, encoder)
    return Field(msgspec.Raw, _Validated(column, encoder))


def knows_neighbours(column: Column) -> bool:
    """Whether a validator of the column's values may look at the record's other values, which a column alone does not have."""
    return _is_with_info(TypeAdapter(column.annotation).core_schema)


def _is_with_info(schema: Any) -> bool:
    if isinstance(schema, dict):
        return schema.get("type") == "with-info" or any(map(_is_with_info, schema.values()))
    return isinstance(schema, (list, tuple)) and any(map(_is_with_info, schema))


class _Validated:
    """
    The texts of values that only the validator of their column understands: whole columns at a time.

    Each value is validated as the only one of its record: as deeply nested, and with the same name, as it will be in an event.
    """

    def __init__(self, column: Column, encoder: Encoder) -> None:
        records: Any = list.__class_getitem__(record_of_one(column))
        self._adapter: TypeAdapter[list[dict[str, Any]]] = TypeAdapter(records)
        self._name, self._encoder = column.name, encoder

    def __call__(self, raws: Iterable[bytes]) -> list[str]:
        begin = b'{"%b":' % self._name.encode()
        records = self._adapter.validate_json(b"[%b]" % b",".join([b"%b%b}" % (begin, raw) for raw in raws]))
        return encode(self._encoder, list(map(itemgetter(self._name), records)))


#: Any digit stands for all: what is left tells the form.
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_HEX_DIGITS = bytes.maketrans(b"123456789abcdef", b"000000000000000")

_UUID_SHAPE = b"00000000-0000-0000-0000-000000000000"
_DATE_SHAPE = b"0000-00-00"
_SECONDS = _DATE_SHAPE + b"T00:00:00"
_TIMES = [_SECONDS, *(_SECONDS + b"." + b"0" * digits for digits in range(1, 7))]
_TIME_SHAPES = {time + zone for time in _TIMES for zone in (b"Z", b"+00:00", b"-00:00")}
_OFFSET = re.compile(r"[+-]\d\d:[0-5]\d")


def _shapes(texts: Sequence[str], digits: bytes) -> set[bytes]:
    return set("\n".join(texts).encode().translate(digits).split(b"\n"))


def _moments(values: Iterable[str]) -> list[str]:
    texts = list(values)
    if texts:
        check_times(texts)
    return texts


def check_times(texts: Sequence[str]) -> None:
    """Raise ValueError for what is not a time of the years 2 to 9998 in RFC 3339, to the microsecond at most."""
    if not _shapes(texts, _DIGITS) <= _TIME_SHAPES or min(texts) < "0002" or max(texts) >= "9999":
        raise Odd("times of another form")
    if max(text[11:13] for text in texts) > "23":
        raise Odd("the end of a day, which Python began to read with 3.13")
    zones = {text[-6:] for text in texts if text[-1] != "Z"}
    if any(zone[1:] > MAX_OFFSET or not _OFFSET.fullmatch(zone) for zone in zones):
        raise Odd("a zone that PostgreSQL does not know")
    list(map(datetime.fromisoformat, texts))  # raises ValueError where there is no such day


def _days(values: Iterable[str]) -> list[str]:
    texts = list(values)
    if not _shapes(texts, _DIGITS) <= {_DATE_SHAPE, b""}:
        raise Odd("dates of another form")
    return [str(date.fromisoformat(text)) for text in texts]


def _uuids(values: Iterable[str]) -> list[str]:
    texts = list(values)
    if not _shapes(texts, _HEX_DIGITS) <= {_UUID_SHAPE, b""} or any(len(text) != len(_UUID_SHAPE) for text in texts):
        raise Odd("UUIDs of another form")
    return texts


_INT64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
#: Types whose values msgspec reads as the validators do, for the encoders of their columns.
_PLAIN: dict[type, Any] = {str: str, bool: bool, float: float, int: _INT64}
#: Types whose values are text already.
_SHAPED: dict[type, Encoder] = {AwareDatetime: _moments, date: _days, UUID: _uuids}
