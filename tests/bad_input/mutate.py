"""
Good messages of all shipped types, damaged at random; as many as wanted, and the same for the same seed.

Bytes are flipped, cut out, put in, doubled and spliced from another message; or the JSON is read, one value is exchanged, left
out, renamed or doubled, and it is written again. A tenth of the messages is damaged in its headers too.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from penstock_schemas.column import Column, Kind
from penstock_schemas.registry import load_registry
from tests.bad_input.case import VERSION, numbered_epoch

__all__ = ["Mutant", "mutants"]

_VALUES: dict[Kind, Any] = {
    Kind.TEXT: "a text, größer",
    Kind.BIGINT: 4711,
    Kind.DOUBLE: 0.25,
    Kind.BOOLEAN: True,
    Kind.TIMESTAMPTZ: "2026-11-01T12:00:00Z",
    Kind.UUID: "0199bad0-0000-7000-8000-000000000001",
    Kind.JSONB: {"a": [1, "b", {"c": None}]},
}
#: What takes the place of a value: every type of JSON, and the ends of some.
_INSTEAD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 2**63, -(2**63) - 1, 10**30, "", "x", "\x00", "\ud800", "\u202e", "9" * 50, [], {}, [[]]),
    *({"a": {}}, [None] * 20, "10000-01-01T00:00:00Z", "2026-11-01T12:00:00", "x" * 3_000, float("inf"), float("nan")),
)
_BYTES = (
    b"\x00",
    b"\xff",
    b"\xc0\xaf",
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\\u0000",
    b"\\ud800",
    b"1e999",
    b"\n",
    b"-",
)
#: Stands where a message's epoch belongs, which no mutation touches: it is by the epoch that each is found again.
_PLACE = "0199bad0-face-7000-8000-00000000face"
_PLACE_BYTES = _PLACE.encode()


class Mutant(NamedTuple):
    """A message that was good once; `epoch` is in its headers and, if it is still there, in its body."""

    epoch: str
    body: bytes
    headers: dict[str, Any]


def mutants(seed: int, count: int) -> Iterator[Mutant]:
    """`count` damaged messages, each with an epoch of its own."""
    chance = random.Random(seed)
    templates = [(text.encode(), events) for text, events in _templates()]
    for number in range(count):
        body, events = chance.choice(templates)
        for _ in range(chance.choice((1, 1, 1, 2, 5))):
            body = chance.choice(_MUTATIONS)(chance, body)
        epoch = numbered_epoch(0x0199BAD1 + seed, number)
        headers: dict[str, Any] = {"v": 1, "producer": "mutant", "epoch": epoch, "seq": 0, "count": events}
        if chance.random() < 0.1:
            headers = _damage_headers(chance, headers)
        yield Mutant(epoch, body.replace(_PLACE_BYTES, epoch.encode()), headers)


def _templates() -> Iterator[tuple[str, int]]:
    """A message of each type, one of all, a full and a partial one, a delete, and a heartbeat."""
    everything = []
    for record in load_registry().values():
        full = {column.name: _value(column) for column in record.columns}
        parent = [record.declaration.parent.field] if record.declaration.parent else []
        partial = {name: full[name] for name in [*record.key, *parent]}
        events = [_event(record.name, "upsert", full), _event(record.name, "upsert", {**partial, "unknown": [1]})]
        if not record.declaration.append_only:
            events.append(_event(record.name, "delete", {name: full[name] for name in record.key}))
        everything += events
        yield _envelope(events[:1]), 1
        yield _envelope(events), len(events)
    yield _envelope(everything), len(everything)
    yield _envelope([]), 0


def _value(column: Column) -> Any:
    literals = getattr(column.annotation, "__args__", None)
    return literals[0] if literals and isinstance(literals[0], str) else _VALUES[column.kind]


def _event(type_name: str, op: str, data: dict[str, Any]) -> dict[str, Any]:
    return {"type": type_name, "op": op, "version": VERSION, "data": data}


def _envelope(events: list[dict[str, Any]]) -> str:
    head = {"v": 1, "producer": "mutant", "epoch": _PLACE, "seq": 0, "dropped": [], "reply_to": None}
    return json.dumps({**head, "events": events}, ensure_ascii=False)


# -- bytes ---------------------------------------------------------------------------------------------------------------------


def _spot(chance: random.Random, body: bytes) -> int:
    """A place outside the epoch."""
    held = body.find(_PLACE_BYTES)
    while held <= (at := chance.randrange(len(body) or 1)) < held + len(_PLACE_BYTES) and held >= 0:
        pass
    return at


def _flip(chance: random.Random, body: bytes) -> bytes:
    at = _spot(chance, body)
    return body[:at] + bytes([body[at] ^ 1 << chance.randrange(8)]) + body[at + 1 :] if body else body


def _cut(chance: random.Random, body: bytes) -> bytes:
    at = _spot(chance, body)
    return body[:at] + body[at + chance.choice((1, 1, 2, 8, 50)) :]


def _truncate(chance: random.Random, body: bytes) -> bytes:
    return body[: _spot(chance, body)]


def _insert(chance: random.Random, body: bytes) -> bytes:
    at = _spot(chance, body)
    return body[:at] + chance.choice(_BYTES) * chance.choice((1, 1, 1, 2, 300)) + body[at:]


def _double(chance: random.Random, body: bytes) -> bytes:
    at = body.find(b'"events"')
    start = chance.randrange(max(at, 0), len(body) + 1)
    return body[:start] + body[start : start + chance.choice((1, 5, 40, 400))] + body[start:]


def _splice(chance: random.Random, body: bytes) -> bytes:
    """The end of another message behind the beginning of this one."""
    piece = chance.choice(_ENDS)
    return body[: _spot(chance, body)] + piece[chance.randrange(len(piece)) :]


# -- JSON ----------------------------------------------------------------------------------------------------------------------


def _exchange(chance: random.Random, body: bytes) -> bytes:
    return _edit(chance, body, lambda holder, name: holder.__setitem__(name, chance.choice(_INSTEAD)))


def _leave_out(chance: random.Random, body: bytes) -> bytes:
    return _edit(chance, body, lambda holder, name: holder.__delitem__(name))


def _rename(chance: random.Random, body: bytes) -> bytes:
    def rename(holder: Any, name: Any) -> None:
        if isinstance(holder, dict):
            holder[chance.choice(("", "x", "\x00", "id", "_version", name.upper() + "z"))] = holder.pop(name)

    return _edit(chance, body, rename)


def _nest(chance: random.Random, body: bytes) -> bytes:
    def nest(holder: Any, name: Any) -> None:
        for _ in range(chance.choice((1, 3, 150))):
            holder[name] = [holder[name]]

    return _edit(chance, body, nest)


def _name_twice(chance: random.Random, body: bytes) -> bytes:
    """A field of an object again, with another value."""
    names = [
        name for name in (b'"type":', b'"op":', b'"version":', b'"data":', b'"seq":', b'"v":', b'"events":') if name in body
    ]
    if not names:
        return body
    name = chance.choice(names)
    value = json.dumps(chance.choice(_INSTEAD)).encode()
    return body.replace(name, name + value + b"," + name, 1)


def _edit(chance: random.Random, body: bytes, change: Callable[[Any, Any], None]) -> bytes:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return body
    places: list[tuple[Any, Any]] = []
    _add_places(content, places)
    if not places:
        return body
    change(*chance.choice(places))
    return json.dumps(content).encode()


def _add_places(value: Any, places: list[tuple[Any, Any]]) -> None:
    """Each value by what holds it and its name there, but for the epoch; added to one list, as this is done very often."""
    for name, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if name != "epoch":
            places.append((value, name))
        if isinstance(inner, (dict, list)):
            _add_places(inner, places)


def _damage_headers(chance: random.Random, headers: dict[str, Any]) -> dict[str, Any]:
    name = chance.choice(("v", "producer", "seq", "count"))
    return {**headers, name: chance.choice(_INSTEAD[:-2])} if chance.random() < 0.7 else {"epoch": headers["epoch"]}


_MUTATIONS = (
    _flip,
    _flip,
    _cut,
    _truncate,
    _insert,
    _double,
    _splice,
    _exchange,
    _exchange,
    _leave_out,
    _rename,
    _nest,
    _name_twice,
)
_ENDS = [text[text.find('"events"') :].encode() for text, _ in _templates()]
