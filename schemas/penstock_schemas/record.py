"""`Record`: the base of every record type, and what its declaration works out to."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticSerializationError

from penstock_schemas.column import Column, Kind, Rule, column_of
from penstock_schemas.declaration import Declaration
from penstock_schemas.errors import DeclarationError, RecordError
from penstock_schemas.serializer import whole_serializer

__all__ = ["Record", "RecordType"]

#: A NUL in JSON: the backslash before `u0000` is not itself escaped.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
#: What JSON needs to hold a NUL, NaN, Infinity. To look for one byte costs a fifth of looking for a word.
_BACKSLASH, _N, _I = b"\\NI"


class Record(BaseModel):
    """
    One row to be, or a part of it.

    Subclass it and give it a `__record__`. Fields that were not set are not sent: absent is not NULL, so a record with few
    fields is a partial update. Therefore every field but the key and the parent has the default None.

    Raises:
        DeclarationError: At class creation, when the fields and the declaration do not fit.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, ser_json_inf_nan="constants")

    __record__: ClassVar[Declaration]
    __record_type__: ClassVar[RecordType]
    #: See `whole_serializer`.
    __whole_json__: ClassVar[Callable[..., bytes] | None] = None

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.__whole_json__ = whole_serializer(cls)
        if "__record__" in cls.__dict__:
            cls.__record_type__ = RecordType.of(cls)

    def to_json(self) -> bytes:
        """
        The fields that were set, as JSON.

        Raises:
            RecordError: A value cannot be stored in PostgreSQL: a NUL character, a lone surrogate, NaN or infinity in JSON.
        """
        values, whole_json, fields_set = self.__dict__, self.__whole_json__, self.__pydantic_fields_set__
        try:
            # Not by number alone: a field that was deleted stays among those that were set.
            if whole_json is not None and len(fields_set) == len(values) and fields_set.issuperset(values):
                payload = whole_json(values, exclude_unset=True)
            else:
                payload = self.__pydantic_serializer__.to_json(self, exclude_unset=True)
        except PydanticSerializationError as exc:
            raise RecordError(f"{self.__record__.type}: {exc}") from exc
        if _BACKSLASH in payload or _N in payload or _I in payload:
            self._check(payload)
        return payload

    def _check(self, payload: bytes) -> None:
        if b"\\u0000" in payload and _NUL.search(payload):
            raise RecordError(f"{self.__record__.type}: a text holds a NUL character, which PostgreSQL cannot store")
        if b"NaN" in payload or b"Infinity" in payload:
            json.loads(payload, parse_constant=self._refuse_constant)

    @classmethod
    def _refuse_constant(cls, constant: str) -> None:
        """Called for NaN and Infinity as numbers, not for texts that hold the word."""
        raise RecordError(f"{cls.__record__.type}: a number is {constant}, which JSON does not have")


@dataclass(frozen=True)
class RecordType:
    """A record class read once: its declaration and its columns, in the order of the fields."""

    declaration: Declaration
    columns: tuple[Column, ...]
    owner: str
    doc: str

    @classmethod
    def of(cls, record: type[Record]) -> RecordType:
        """
        Read a record class.

        Raises:
            DeclarationError: Its fields and its declaration do not fit.
        """
        declaration = record.__record__
        _check_names(declaration, record)
        columns = tuple(_columns(record, declaration))
        _check_kinds(declaration, columns)
        return cls(declaration, columns, record.__module__.split(".")[0], (record.__doc__ or "").strip())

    @cached_property
    def name(self) -> str:
        """The event type."""
        return self.declaration.type

    @cached_property
    def key(self) -> tuple[str, ...]:
        """The columns of the primary key."""
        return self.declaration.key

    @cached_property
    def by_name(self) -> dict[str, Column]:
        """The columns by name."""
        return {column.name: column for column in self.columns}

    @cached_property
    def values(self) -> tuple[Column, ...]:
        """Every column that merges: all but the key's."""
        return tuple(column for column in self.columns if column.name not in self.key)

    @cached_property
    def indexed(self) -> frozenset[str]:
        """The columns of the key and of every btree index that is declared; the parent's is."""
        parent = [self.declaration.parent.field] if self.declaration.parent else []
        btrees = [name for index in self.declaration.indexes if index.method == "btree" for name in index.columns]
        return frozenset([*self.key, *parent, *btrees])

    @cached_property
    def has_first(self) -> bool:
        """Whether a column keeps its first value."""
        return any(column.rule is Rule.FIRST for column in self.columns)

    @cached_property
    def is_delete_final(self) -> bool:
        """Whether a delete ends the record for good: so for all types whose columns are not all `newest`."""
        return any(column.rule is not Rule.NEWEST for column in self.values)


def _columns(record: type[Record], declaration: Declaration) -> list[Column]:
    lifecycle = declaration.lifecycle.columns if declaration.lifecycle else ()
    required = {*declaration.key, *([declaration.parent.field] if declaration.parent else [])}
    columns = []
    for name, field in record.model_fields.items():
        if name.startswith("_"):
            raise DeclarationError(f"{declaration.type}: {name!r} begins with _, which marks Penstock's own columns")
        if name not in required and (field.is_required() or field.default is not None):
            raise DeclarationError(f"{declaration.type}: give {name!r} the default None, any column may be absent")
        column = column_of(name, field)
        columns.append(replace(column, rule=Rule.STATE) if name in lifecycle else column)
    return columns


def _check_names(declaration: Declaration, record: type[Record]) -> None:
    named = {
        "key": declaration.key,
        "parent": (declaration.parent.field,) if declaration.parent else (),
        "lifecycle": declaration.lifecycle.columns if declaration.lifecycle else (),
        "append_only": (declaration.append_only,) if declaration.append_only else (),
        "subject": (declaration.subject,) if declaration.subject else (),
        "indexes": tuple(name for index in declaration.indexes for name in index.columns),
    }
    for what, names in named.items():
        for name in names:
            if name not in record.model_fields:
                raise DeclarationError(f"{declaration.type}: {what} names {name!r}, which is no field of the record")


def _check_kinds(declaration: Declaration, columns: tuple[Column, ...]) -> None:
    kinds = {column.name: column.kind for column in columns}
    for name in declaration.key:
        if kinds[name] is Kind.JSONB:
            raise DeclarationError(f"{declaration.type}: {name!r} is JSON and cannot be part of the key")
    if declaration.append_only and kinds[declaration.append_only] is not Kind.TIMESTAMPTZ:
        raise DeclarationError(f"{declaration.type}: {declaration.append_only!r} must be an AwareDatetime")
    if declaration.lifecycle and kinds[declaration.lifecycle.field] is not Kind.TEXT:
        raise DeclarationError(f"{declaration.type}: the state {declaration.lifecycle.field!r} must be a text")
    if declaration.subject and kinds[declaration.subject] not in (Kind.TEXT, Kind.UUID, Kind.BIGINT):
        raise DeclarationError(f"{declaration.type}: the subject {declaration.subject!r} must be a text, an integer or a UUID")
    compared = {*declaration.key, *([declaration.lifecycle.field] if declaration.lifecycle else [])}
    for column in columns:
        if column.name in compared and _is_plain_enum(column.annotation):
            raise DeclarationError(f"{declaration.type}: {column.name!r} is compared, make its enum a StrEnum or an IntEnum")
    overlap = {c.name for c in columns if c.rule is not Rule.NEWEST and c.name in declaration.key}
    if overlap:
        raise DeclarationError(f"{declaration.type}: {sorted(overlap)} are part of the key and cannot merge")


def _is_plain_enum(annotation: Any) -> bool:
    bare = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return isinstance(bare, type) and issubclass(bare, enum.Enum) and not issubclass(bare, (str, int))
