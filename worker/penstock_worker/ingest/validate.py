"""Validation of whole envelopes in pydantic-core, from bytes to plain values without a model object in between."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired
from uuid import UUID

from pydantic import ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict

from penstock_schemas.answer import MAX_QUERY_RANGES
from penstock_schemas.column import Column, Kind
from penstock_schemas.record import RecordType
from penstock_schemas.registry import Registry
from penstock_schemas.wire import VERSION

__all__ = ["MAX_SEQ", "Validators", "record_of_one"]

_INT64 = Field(ge=-(2**63), le=2**63 - 1)
#: An event's number has 48 bits in its id.
MAX_SEQ = 2**48 - 1
_SEQ = Field(ge=0, le=MAX_SEQ)
_Version = Annotated[int, Field(ge=0, le=2**63 - 1)]


class Validators:
    """
    The validators of a registry's record types, built once per process.

    `records` are the types by name. `envelope` reads a good envelope in one call; `head` reads one without its events and
    `event` a single event, for envelopes in which something is wrong. All three are `pydantic.TypeAdapter`s of plain dicts.
    """

    def __init__(self, registry: Registry) -> None:
        self.records = dict(registry)
        event: Any = _event_type(registry)
        self.event: TypeAdapter[Any] = TypeAdapter(event)
        self.head: TypeAdapter[Any] = TypeAdapter(_typed("Head", _HEAD, _IGNORE))
        self.envelope: TypeAdapter[Any] = TypeAdapter(
            _typed("Envelope", {**_HEAD, "events": list.__class_getitem__(event)}, _IGNORE)
        )


_IGNORE = ConfigDict(extra="ignore")
_KEEP = ConfigDict(extra="allow", allow_inf_nan=False, ser_json_inf_nan="null")

_HEAD: dict[str, Any] = {
    "v": Literal[VERSION],
    "producer": Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f]*$")],
    "epoch": UUID,
    "seq": Annotated[int, _SEQ],
    "dropped": NotRequired[
        list[tuple[Annotated[int, _SEQ], Annotated[int, _SEQ], Annotated[str, Field(pattern=r"^[a-z_]{1,50}$")]]]
    ],
    "reply_to": NotRequired[str | None],
    "closed": NotRequired[bool],
    "query": NotRequired[
        Annotated[list[tuple[Annotated[int, _SEQ], Annotated[int, _SEQ]]], Field(max_length=MAX_QUERY_RANGES)]
    ],
}


def _typed(name: str, fields: dict[str, Any], config: ConfigDict) -> Any:
    make: Any = TypedDict  # at run time, which type checkers do not follow
    typed = make(name, fields)
    typed.__pydantic_config__ = config
    return typed


def _event_type(registry: Registry) -> Any:
    """The union of all events, chosen by `type`, then by `op`."""
    members = [_member(record) for record in registry.values()]
    union = members[0]
    for member in members[1:]:
        union = union | member
    return Annotated[union, Field(discriminator="type")] if len(members) > 1 else union


def _member(record: RecordType) -> Any:
    upsert = _op(record, "upsert", _typed("Upsert", {c.name: _field(record, c) for c in record.columns}, _KEEP))
    if record.declaration.append_only:
        return upsert
    keys = {name: _value_type(record.by_name[name]) for name in record.key}
    delete = _op(record, "delete", _typed("Delete", keys, _IGNORE))
    return Annotated[upsert | delete, Field(discriminator="op")]


def _op(record: RecordType, op: str, data: Any) -> Any:
    return _typed("Event", {"type": Literal[record.name], "op": Literal[op], "version": _Version, "data": data}, _IGNORE)


def _field(record: RecordType, column: Column) -> Any:
    """Key and parent must be there and not NULL, all else may be absent; an append-only id defaults to the event's."""
    parent = record.declaration.parent
    if column.name in record.key and record.declaration.append_only and column.kind is Kind.UUID:
        return NotRequired[_value_type(column)]
    if column.name in record.key or (parent and column.name == parent.field):
        return _value_type(column)
    return NotRequired[_value_type(column) | None]


def record_of_one(column: Column) -> Any:
    """The type of a record that has this column alone."""
    return _typed("Record", {column.name: _value_type(column)}, _KEEP)


def _value_type(column: Column) -> Any:
    return Annotated[column.annotation, _INT64] if column.kind is Kind.BIGINT else column.annotation
