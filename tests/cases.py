"""
Sets of events and ways to deliver them, for the merge's tests; small domains, so that they collide.

Everything is drawn from one source of numbers: hypothesis looks for a counter-example and shrinks it, `random.Random` makes a
corpus that is always the same. `TYPES` describes tests/records.py to the model, written by hand, not derived.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

__all__ = ["EPOCHS", "LATEST", "TYPES", "Delivery", "Picker", "Wire", "pick_delivery", "pick_events", "with_culprits"]

T = TypeVar("T")
Event = dict[str, Any]

#: Versions above are from the future; the events' own are far below, the future ones far above.
LATEST = 3_000_000_000_000_000
_BASE_VERSION = 1_700_000_000_000_000

#: Three process starts; the last one's ids are the lowest, so that (version, event id) and time of publishing differ.
EPOCHS = (
    "0199a000-0000-7a00-9000-00000000000a",
    "0199b000-0000-7b00-b000-00000000000b",
    "01981000-0000-7c00-8000-00000000000c",
)
_FIRST_SEQ = {EPOCHS[0]: 0, EPOCHS[1]: 4711, EPOCHS[2]: 2**40}

_MONTH = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
_TIMES = (_MONTH.isoformat(), _MONTH.replace(day=2, hour=13, minute=30).isoformat())
_LONG_AGO, _FAR_AHEAD = "2001-02-03T04:05:06+00:00", "2090-02-03T04:05:06+00:00"


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _name(value: Any) -> bool:
    """A text in an index, which PostgreSQL refuses above some 2,700 bytes."""
    return isinstance(value, str) and len(value) < 1000


def _whole(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _time(value: Any) -> bool:
    return value in (*_TIMES, _LONG_AGO, _FAR_AHEAD)


def _state(value: Any) -> bool:
    return value in ("open", "busy", "done", "failed")


def _array(value: Any) -> bool:
    return isinstance(value, list)


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _uuid(value: Any) -> bool:
    return _text(value) and len(value) == 36


_PLAIN = {"parent": None, "state": None, "terminal": set(), "time": None, "window": None}
TYPES: dict[str, dict[str, Any]] = {
    "lab.site": _PLAIN
    | {
        "key": ("site_id",),
        "columns": {
            "site_id": ("newest", _name),
            "name": ("newest", _text),
            "since": ("min", _time),
            "most": ("max", _whole),
            "status": ("state", _state),
            "error": ("state", _text),
        },
        "state": "status",
        "terminal": {"done", "failed"},
    },
    "lab.run": _PLAIN
    | {
        "key": ("run_id",),
        "parent": ("site_id", "lab.site"),
        "columns": {
            "run_id": ("newest", _name),
            "site_id": ("newest", _name),
            "label": ("newest", _text),
            "details": ("newest", _object),
            "origin": ("first", _text),
            "opened_by": ("first", _whole),
            "lowest": ("min", _whole),
            "started_at": ("min", _time),
            "highest": ("max", _number),
            "last_word": ("max", _text),
            "status": ("state", _state),
            "ended_at": ("state", _time),
        },
        "state": "status",
        "terminal": {"done", "failed"},
    },
    "lab.note": _PLAIN
    | {
        "key": ("number",),
        "parent": ("site_id", "lab.site"),
        "columns": {
            "number": ("newest", _whole),
            "site_id": ("newest", _name),
            "text": ("newest", _text),
            "size": ("newest", _number),
            "tags": ("newest", _array),
        },
    },
    "lab.remark": _PLAIN
    | {
        "key": ("remark_id",),
        "parent": ("note", "lab.note"),
        "columns": {"remark_id": ("newest", _uuid), "note": ("newest", _whole), "text": ("newest", _text)},
    },
    "lab.pair": _PLAIN
    | {
        "key": ("tenant", "number"),
        "columns": {
            "tenant": ("newest", _name),
            "number": ("newest", _whole),
            "text": ("newest", _text),
            "flag": ("newest", _flag),
        },
    },
    "lab.reading": _PLAIN
    | {
        "key": ("id", "at"),
        "columns": {
            "id": ("newest", _uuid),
            "at": ("newest", _time),
            "value": ("newest", _number),
            "note": ("newest", _text),
            "peak": ("max", _whole),
        },
        "time": "at",
        "window": ("2026-01-01T00:00:00+00:00", "2080-01-01T00:00:00+00:00"),
    },
    "lab.mark": _PLAIN | {"key": ("mark_id",), "columns": {"mark_id": ("newest", _name)}},
    "lab.tally": _PLAIN | {"key": ("tally_id",), "columns": {"tally_id": ("newest", _whole), "most": ("max", _whole)}},
}

_NOTHING: dict[str, Any] = {"columns": {}}

_UUIDS = ("0c7b1a52-6a1e-4f5c-9d55-1f0a6c1d2e01", "f3b0c442-98fc-4c14-9afb-f4c8996fb924")
#: The keys of each type with the parent that belongs to them: a key's parent never changes.
_KEYS: dict[str, tuple[tuple[Event, Event], ...]] = {
    "lab.site": (({"site_id": "a"}, {}), ({"site_id": "B"}, {}), ({"site_id": "\u00e4 \u2028\\u0000\t"}, {})),
    "lab.run": (({"run_id": "r1"}, {"site_id": "a"}), ({"run_id": "R2"}, {"site_id": "\u00e4 \u2028\\u0000\t"})),
    "lab.note": (({"number": 1}, {"site_id": "a"}), ({"number": -(2**63)}, {"site_id": "B"})),
    "lab.remark": (({"remark_id": _UUIDS[0]}, {"note": 1}), ({"remark_id": _UUIDS[1]}, {"note": 7})),
    "lab.pair": (({"tenant": "a", "number": 1}, {}), ({"tenant": "a", "number": 2}, {}), ({"tenant": "B", "number": 1}, {})),
    "lab.mark": (({"mark_id": "first"}, {}), ({"mark_id": "second"}, {})),
    "lab.tally": (({"tally_id": 1}, {}), ({"tally_id": 2}, {})),
    "lab.reading": (
        ({"id": _UUIDS[0], "at": _TIMES[0]}, {}),
        ({"id": _UUIDS[0], "at": _TIMES[1]}, {}),
        ({"at": _TIMES[0]}, {}),
    ),
}
_VALUES: dict[Callable[[Any], bool], tuple[Any, ...]] = {
    _text: (None, "", "Beta", "alpha", "\u00e4\\N\t\n\\u0000 \U0001f600", '\\"\\'),
    _whole: (None, 0, 3, -(2**63), 2**63 - 1),
    _number: (None, 0.5, -2, 1.25e15),
    _flag: (None, True, False),
    _time: (None, *_TIMES),
    _state: (None, "open", "busy", "done", "failed"),
    _array: (None, [], [1, "\\u0000", None]),
    _object: (None, {}, {"a": {"b": [1.5, None, "\\"]}}, {"c": "\u00e4\n"}),
}
#: Cannot be compressed, so that only the database sees that it is too long.
_TOO_LONG = "".join(hashlib.sha256(b"%d" % number).hexdigest() for number in range(200))
_WRONG: dict[Callable[[Any], bool], tuple[Any, ...]] = {
    _text: ({"a": 1}, "n\0l"),
    _name: ({"a": 1}, "n\0l", _TOO_LONG),
    _whole: ("x", 2**63, [1]),
    _number: ("x", {}),
    _flag: ("x",),
    _time: ("yesterday",),
    _state: ("gone",),
    _array: ("x", ["n\0l"]),
    _object: ("x", {"a": ["n\0l"]}),
    _uuid: ("x",),
}
_EXTRAS = ({"colour": "red"}, {"colour": None}, {"weight": {"kg": 1}}, {"colour": "b\\u0000", "weight": 2})


@dataclass(frozen=True)
class Picker:
    """Choices from `integer(low, high)`, both included; the lowest is the plainest."""

    integer: Callable[[int, int], int]

    def one(self, values: Sequence[T]) -> T:
        return values[self.integer(0, len(values) - 1)]

    def one_in(self, chances: int) -> bool:
        return self.integer(0, chances - 1) == chances - 1

    def some(self, values: Sequence[T]) -> list[T]:
        return [value for value in values if self.integer(0, 1)]

    def shuffled(self, values: Sequence[T]) -> list[T]:
        left = list(values)
        return [left.pop(self.integer(0, len(left) - 1)) for _ in values]


@dataclass(frozen=True)
class Wire:
    """One message."""

    body: bytes
    headers: dict[str, Any]


@dataclass(frozen=True)
class Delivery:
    """Batches by connection; the order of those of one connection is given."""

    connections: tuple[list[list[Wire]], ...]


def pick_events(pick: Picker, at_least: int = 1, at_most: int = 14, types: Sequence[str] = ()) -> list[Event]:
    """
    A set of events of few types, so that many meet in one row; of these types and their parents, if any are given.

    One set in three holds full records only, which is what most services send, and which takes the shortest way.
    """
    names = list(types) or pick.shuffled([*TYPES, "lab.note", "lab.pair"])[: pick.one((1, 1, 2, 3))]
    names += [TYPES[name]["parent"][1] for name in names if TYPES[name]["parent"]]
    keys = {name: _KEYS[name][: pick.one((1, 1, 3))] for name in names}
    deletes_in_ten = pick.one((1, 0, 3))
    seqs = dict(_FIRST_SEQ)
    events = []
    for _ in range(pick.integer(at_least, at_most)):
        epoch = pick.one(EPOCHS)
        events.append({"epoch": epoch, "seq": seqs[epoch], **_pick_event(pick, *pick.one(list(keys.items())), deletes_in_ten)})
        seqs[epoch] += 1
    return events


def _pick_event(pick: Picker, name: str, keys: Sequence[tuple[Event, Event]], deletes_in_ten: int) -> Event:
    kind = TYPES[name]
    key, parent = pick.one(keys)
    event = {"type": name, "op": "upsert", "version": _BASE_VERSION + pick.integer(0, 4), "data": dict(key)}
    others = {column: is_valid for column, (_, is_valid) in kind["columns"].items() if column not in {*key, *parent, "id"}}
    if pick.integer(1, 10) > 10 - deletes_in_ten and not kind["time"]:
        event["op"] = "delete"
    else:
        chosen = others if not deletes_in_ten or pick.one_in(3) else pick.some(list(others))
        event["data"] |= parent | {column: pick.one(_VALUES[others[column]]) for column in chosen}
        event["data"] |= pick.one(_EXTRAS) if deletes_in_ten and pick.one_in(5) else {}
    return _spoil(pick, kind, event) if deletes_in_ten and pick.one_in(10) else event


def _spoil(pick: Picker, kind: dict[str, Any], event: Event) -> Event:
    """Give an event one fault."""
    data = event["data"]
    column = pick.one(sorted(data.keys() & kind["columns"].keys()))
    required = pick.one([*kind["key"], *([kind["parent"][0]] if kind["parent"] and event["op"] == "upsert" else [])])
    faults: list[Event] = [
        {"data": data | {column: pick.one(_WRONG[kind["columns"][column][1]])}},
        {"type": "lab.unheard_of"},
        {"version": LATEST + 10**15},
    ]
    if not kind["time"]:
        faults += [{"data": data | {required: None}}, {"data": {name: data[name] for name in data if name != required}}]
    elif event["op"] == "upsert":
        faults += [{"data": data | {"at": _LONG_AGO}}, {"data": data | {"at": _FAR_AHEAD}}, {"op": "delete"}]
    if event["op"] == "upsert":
        faults.append({"data": data | {"colour": ["n\0l"]}})
    return event | pick.one(faults)


def with_culprits(pick: Picker, events: Sequence[Event]) -> list[Event]:
    """The same events, in one or two of which a text is too long for its index."""
    found = [
        (place, column)
        for place, event in enumerate(events)
        for column, (_, is_valid) in TYPES.get(event["type"], _NOTHING)["columns"].items()
        if is_valid is _name and column in event["data"]
    ]
    culprits = dict(pick.shuffled(found)[: pick.integer(1, 2)])
    return [
        event | {"data": event["data"] | {culprits[place]: _TOO_LONG}} if place in culprits else event
        for place, event in enumerate(events)
    ]


def pick_delivery(pick: Picker, events: Sequence[Event], connections: int, cut_one_in: int = 2) -> Delivery:
    """
    One way for the events to arrive: cut into messages, some of them twice or cut again, shuffled, cut into batches.

    A message holds events whose numbers follow each other, so that much is given; all else is free. With `cut_one_in=1` each
    event is a message and a batch of its own and the tables merge; with a large number it is the batch that merges.
    """
    messages: list[Wire] = []
    for epoch in EPOCHS:
        own = [event for event in events if event["epoch"] == epoch]
        messages += [_message(own[start:end]) for start, end in _cuts(pick, len(own), cut_one_in)]
        if own and pick.one_in(2):
            start = pick.integer(0, len(own) - 1)
            messages.append(_message(own[start : pick.integer(start, len(own) - 1) + 1]))
    messages = pick.shuffled(messages)
    batches: tuple[list[list[Wire]], ...] = tuple([] for _ in range(connections))
    for start, end in _cuts(pick, len(messages), cut_one_in):
        batches[pick.integer(0, connections - 1)].append(messages[start:end])
    return Delivery(batches)


def _cuts(pick: Picker, length: int, cut_one_in: int) -> list[tuple[int, int]]:
    ends = [*(place for place in range(1, length) if pick.one_in(cut_one_in)), length]
    return [(start, end) for start, end in zip([0, *ends], ends, strict=False) if start < end]


def _message(events: Sequence[Event]) -> Wire:
    head = {"v": 1, "producer": "lab", "epoch": events[0]["epoch"], "seq": events[0]["seq"]}
    parts = [{name: event[name] for name in ("type", "op", "version", "data")} for event in events]
    body = json.dumps({**head, "dropped": [], "reply_to": None, "events": parts}, ensure_ascii=len(events) % 2 == 0)
    return Wire(body.encode(), {**head, "count": len(events)})
