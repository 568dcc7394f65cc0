"""
From a field's annotation to a column: its SQL kind and its merge rule.

| annotation                         | column             |
|------------------------------------|--------------------|
| str, Literal["a", "b"], StrEnum    | text               |
| int                                | bigint             |
| float                              | double precision   |
| bool                               | boolean            |
| AwareDatetime                      | timestamptz        |
| date                               | date               |
| UUID                               | uuid               |
| Decimal                            | numeric            |
| dict, list, models, Any            | jsonb              |
"""

from __future__ import annotations

import enum
import types
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin
from uuid import UUID

from pydantic import AwareDatetime
from pydantic.fields import FieldInfo

from penstock_schemas.errors import DeclarationError

__all__ = ["Column", "First", "Kind", "Max", "Merge", "Min", "Rule", "column_of"]


class Kind(enum.StrEnum):
    """The PostgreSQL type of a column."""

    TEXT = "text"
    BIGINT = "bigint"
    DOUBLE = "double precision"
    BOOLEAN = "boolean"
    TIMESTAMPTZ = "timestamptz"
    DATE = "date"
    UUID = "uuid"
    NUMERIC = "numeric"
    JSONB = "jsonb"


class Rule(enum.StrEnum):
    """
    Which of several values of a column stays.

    NEWEST and FIRST order by (version, event id); STATE by (rank, version, event id), see `Lifecycle`; MIN and MAX by the
    value itself, where NULL never wins.
    """

    NEWEST = "newest"
    FIRST = "first"
    MIN = "min"
    MAX = "max"
    STATE = "state"


@dataclass(frozen=True, slots=True)
class Merge:
    """Put into `Annotated` to choose a rule; see `First`, `Min`, `Max`."""

    rule: Rule


T = TypeVar("T")
First = Annotated[T, Merge(Rule.FIRST)]
Min = Annotated[T, Merge(Rule.MIN)]
Max = Annotated[T, Merge(Rule.MAX)]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a record's table, `annotation` being what validates its non-null values."""

    name: str
    kind: Kind
    rule: Rule
    annotation: Any


_KINDS: dict[type, Kind] = {
    bool: Kind.BOOLEAN,
    int: Kind.BIGINT,
    float: Kind.DOUBLE,
    str: Kind.TEXT,
    UUID: Kind.UUID,
    Decimal: Kind.NUMERIC,
    date: Kind.DATE,
}
_REFUSED: dict[type, str] = {
    datetime: "use pydantic.AwareDatetime, a time without a zone has no order",
    bytes: "use str, or object storage and its address",
    time: "use str or AwareDatetime",
    timedelta: "use float, in seconds",
}


def column_of(name: str, field: FieldInfo) -> Column:
    """
    The column of a model field, its rule still without the lifecycle's.

    Raises:
        DeclarationError: The annotation has no column, or MIN/MAX stands on a column without an order.
    """
    annotation, extras = _strip(field.annotation)
    extras = [*field.metadata, *extras]
    rule = next((extra.rule for extra in extras if isinstance(extra, Merge)), Rule.NEWEST)
    validators = [extra for extra in extras if not isinstance(extra, Merge)]
    kind = _kind(name, annotation)
    if rule in (Rule.MIN, Rule.MAX) and kind in (Kind.JSONB, Kind.BOOLEAN, Kind.UUID):
        raise DeclarationError(f"{name}: {kind} has no order that {rule} could use")
    validated = Annotated[annotation, *validators] if validators else annotation
    return Column(name, kind, rule, validated)


def _strip(annotation: Any) -> tuple[Any, list[Any]]:
    """Take None and Annotated off, keeping what Annotated carried."""
    extras: list[Any] = []
    while True:
        if annotation is AwareDatetime:
            return annotation, extras
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation, *more = get_args(annotation)
            extras.extend(more)
        elif origin in (Union, types.UnionType):
            left = [arg for arg in get_args(annotation) if arg is not type(None)]
            if len(left) != 1:
                return annotation, extras
            annotation = left[0]
        else:
            return annotation, extras


def _kind(name: str, annotation: Any) -> Kind:
    if annotation is AwareDatetime:
        return Kind.TIMESTAMPTZ
    if isinstance(annotation, type):
        if annotation in _REFUSED:
            raise DeclarationError(f"{name}: {annotation.__name__} is no column; {_REFUSED[annotation]}")
        if issubclass(annotation, enum.Enum):
            return _kind_of_all([member.value for member in annotation])
        return _KINDS.get(annotation, Kind.JSONB)
    if get_origin(annotation) is Literal:
        return _kind_of_all(get_args(annotation))
    return Kind.JSONB


def _kind_of_all(values: Sequence[Any]) -> Kind:
    """The kind of the values that an enum or a Literal lists; those of several kinds are JSON."""
    kinds = {_KINDS.get(_plain(value), Kind.JSONB) for value in values if value is not None}
    return kinds.pop() if len(kinds) == 1 else Kind.JSONB


def _plain(value: Any) -> type:
    return next((kind for kind in (bool, int, float, str) if isinstance(value, kind)), object)
