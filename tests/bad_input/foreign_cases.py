"""CloudEvents, single and in batches, good and broken."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.bad_input.case import Case

__all__ = ["cloudevents"]

_SINGLE, _BATCH = "application/cloudevents+json", "application/cloudevents-batch+json; charset=utf-8"
_GOOD: dict[str, Any] = {
    "specversion": "1.0",
    "id": "1",
    "source": "/tests",
    "type": "scheduler.job",
    "time": "2026-10-01T12:00:00Z",
    "data": {"id": "foreign"},
}
#: Of each attribute: values that no CloudEvent may have, or ours may not.
_BAD: dict[str, list[Any]] = {
    "specversion": [..., None, "0.3", 1.0, "", []],
    "id": [..., None, "", 7, [], "x" * 1_001],
    "source": [..., None, "", 7, {}, "x" * 1_001],
    "type": [..., None, "", 7, []],
    "time": [..., None, "", "yesterday", "2026-10-01T12:00:00", "10000-01-01T00:00:00Z", "2026-10-01T12:00:00+25:00", []],
    "data": [..., None, [], "x", 7],
    "op": [None, "", "drop", 7],
}
#: The event can be read, and Penstock says no to what is in it.
_INVALID: dict[str, dict[str, Any]] = {
    "before-1970": {"time": "1969-12-31T23:59:59Z"},
    "no-key": {"data": {}},
    "wrong-type-of-a-column": {"data": {"id": "x", "enabled": "perhaps"}},
    "delete-without-key": {"op": "delete", "data": {"name": "x"}},
}


def cloudevents() -> Iterator[Case]:
    """One that cannot be read refuses its message; one that can be read is an event like others."""
    yield _single("good", 0, {"stored": 1})
    yield Case("cloudevents-batch", _json([_event(1), _event(2)]), {"stored": 2}, content_type=_BATCH, is_numbered=False)
    yield Case("cloudevents-empty-batch", b"[]", {}, content_type=_BATCH, is_numbered=False)
    for name, values in _BAD.items():
        for number, value in enumerate(values):
            bad = {**_event(f"{name}-{number}"), name: value}
            bad = {key: value for key, value in bad.items() if value is not ...}
            yield _refused(f"{name}-{number}", _json(bad), _SINGLE)
            yield _refused(f"{name}-{number}-in-batch", _json([_event(f"{name}-{number}-beside"), bad]), _BATCH)
    for name, changes in _INVALID.items():
        body = _json([_event(f"{name}-beside"), {**_event(name), **changes}])
        letters = {("dead", "invalid"): 1}
        yield Case(f"cloudevent-{name}", body, {"stored": 1, "dead": 1}, letters, content_type=_BATCH, is_numbered=False)
    body = _json([_event("nul-beside"), {**_event("nul"), "data": {"id": "a\0b"}}])
    yield Case(
        "cloudevent-nul", body, {"stored": 1, "dead": 1}, {("dead", "nul_character"): 1}, content_type=_BATCH, is_numbered=False
    )
    for name, changes, reason in (
        ("unknown-type", {"type": "no.such"}, "unknown_type"),
        ("future", {"time": "9999-12-31T23:59:59Z"}, "clock_ahead"),
    ):
        body = _json({**_event(name), **changes})
        yield Case(f"cloudevent-{name}", body, {"held": 1}, {("held", reason): 1}, content_type=_SINGLE, is_numbered=False)
    for name, body in {
        "nothing": b"\n",
        "null": b"null\n",
        "number": b"7\n",
        "text": b'"x"\n',
        "cut": _json(_event("cut"))[:-1],
        "batch-as-single": _json([_event("batch")]),
        "surrogate": _json(_event("s")).replace(b"/tests", b"\\ud800"),
        "infinite": _json(_event("inf")).replace(b'"/tests"', b"1e400"),
    }.items():
        yield _refused(name, body, _SINGLE)
    yield _refused("single-as-batch", _json(_event("single")), _BATCH)
    yield _refused("batch-of-null", b"[null]", _BATCH)
    yield _refused("smuggled", _json(_event("a")) + b"," + _json(_event("b")), _SINGLE)


def _event(key: object) -> dict[str, Any]:
    return {**_GOOD, "id": str(key), "data": {"id": f"foreign {key}"}}


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _single(name: str, key: object, ends: dict[str, int]) -> Case:
    return Case(f"cloudevent-{name}", _json(_event(key)), ends, content_type=_SINGLE, is_numbered=False)


def _refused(name: str, body: bytes, content_type: str) -> Case:
    letters = {("dead", "invalid_cloudevent"): 1}
    return Case(f"cloudevent-{name}", body, {"dead": 1}, letters, content_type=content_type, is_numbered=False)
