"""
Values of SQLite, which has few types, as the JSON that a record takes.

What cannot be read stays as it is: the validators refuse it, and it ends in a dead letter with its reason.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Literal, get_origin

from pydantic_core import from_json

from penstock_schemas.column import Column, Kind
from penstock_worker.takeover.sqlite_file import BrokenText, Value

__all__ = ["SYNONYMS", "Reader", "read_time"]

#: Words of other schedulers for the states of an execution.
SYNONYMS: Mapping[str, str] = {
    "success": "completed",
    "succeeded": "completed",
    "done": "completed",
    "finished": "completed",
    "error": "failed",
    "failure": "failed",
    "canceled": "cancelled",
    "aborted": "cancelled",
    "queued": "pending",
    "scheduled": "pending",
    "started": "running",
    "in_progress": "running",
}

#: Above these a number of seconds since 1970 is one of milli-, micro- or nanoseconds: as seconds it would be the year 5138.
_UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Reader:
    """
    How values are read.

    Args:
        zone: What times without a zone are in.
        statuses: What a state is called now, by what it was called, in small letters.
    """

    zone: tzinfo
    statuses: Mapping[str, str]

    def read(self, column: Column | None, value: Value) -> Any:
        """A value of a column, None being an unknown one; what JSON can hold."""
        if isinstance(value, (bytes, BrokenText)):
            value = _of_bytes(value)
        if value is None or isinstance(value, dict):
            return value
        if column is None:
            return _plain(value)
        if get_origin(column.annotation) is Literal:
            return self._status(value)
        return _READERS.get(column.kind, _as_it_is)(value, self.zone)

    def _status(self, value: Any) -> str:
        word = str(value).strip().lower()
        return self.statuses.get(word, word)


def read_time(value: Value, zone: tzinfo) -> datetime | None:
    """A time as text in ISO 8601, with a zone or without, or as a number since 1970, in UTC; None where it is neither."""
    if isinstance(value, (int, float)):
        return _of_number(value)
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value.strip())
    except ValueError:
        return _of_number(value)
    try:
        return (time if time.tzinfo else time.replace(tzinfo=zone)).astimezone(UTC)
    except OverflowError:  # at the ends of the calendar a zone leads out of it
        return None


def _of_number(value: str | float) -> datetime | None:
    try:
        number = float(value)
        unit = next((unit for least, unit in _UNITS if abs(number) >= least), 1)
        return _EPOCH + timedelta(seconds=number / unit)
    except (ValueError, OverflowError):
        return None


def _of_bytes(value: bytes | BrokenText) -> Any:
    """A BLOB may well be text. What is not is an object, which no column for texts takes, and still has all the bytes."""
    raw = value.raw if isinstance(value, BrokenText) else value
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


def _plain(value: Any) -> Any:
    """JSON has no infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _as_it_is(value: Any, _zone: tzinfo) -> Any:
    return None if value == "" else _plain(value)


def _text(value: Any, _zone: tzinfo) -> str:
    return value if isinstance(value, str) else str(value)


def _time(value: Any, zone: tzinfo) -> Any:
    if isinstance(value, str) and not value.strip():
        return None
    time = read_time(value, zone)
    return _plain(value) if time is None else time.isoformat()


def _boolean(value: Any, zone: tzinfo) -> Any:
    return bool(value) if value in (0, 1) else _as_it_is(value, zone)


def _json(value: Any, _zone: tzinfo) -> Any:
    if not isinstance(value, str):
        return _plain(value)
    try:
        return from_json(value, allow_inf_nan=False) if value.strip() else None
    except ValueError:
        return value


_READERS: Mapping[Kind, Callable[[Any, tzinfo], Any]] = {
    Kind.TEXT: _text,
    Kind.TIMESTAMPTZ: _time,
    Kind.BOOLEAN: _boolean,
    Kind.JSONB: _json,
}
