"""Headers of every type, and Redis messages whose wrapping is not what kombu writes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from tests.bad_input.case import Case, envelope, job, new_epoch, wrap

__all__ = ["headers", "wrappers"]

#: Without all three, and within their limits, nobody knows which numbers a broken body had.
_UNREADABLE: dict[str, list[Any]] = {
    "epoch": [None, "", "x", 7, True, [], {}, 1.5, "0199bad0-0000-7000-8000-00000000000g", "\u202e"],
    "seq": [None, "x", "", -1, 2**48, 2**63 - 1, [], {}, "1.5", "-1", float(2**60)],
    "count": [None, "x", "", -1, 10_001, 2**62, [], {}, "1e3"],
}
_PRODUCERS: list[Any] = [
    None,
    7,
    1.5,
    [],
    {"a": {"b": ["c"]}},
    "x" * 5_000,
    "a\nb",
    "\u202eabc",
    "\x1b[2J",
    True,
    "zalgo a" + "\u0301" * 300,
]


def headers() -> Iterator[Case]:
    """A body that is broken is accounted for by its headers, where these can be read; one that is good does not need them."""
    for name, values in _UNREADABLE.items():
        for number, value in enumerate(values):
            given = {"v": 1, "producer": "bad", "epoch": new_epoch(), "seq": 5, "count": 3, name: value}
            yield _nameless(f"header-{name}-{number}", given)
            body = envelope(job(f"header-{name}-{number}"), epoch=new_epoch())
            yield Case(f"header-{name}-{number}-good-body", body, {"stored": 1}, {}, given)
            missing = {key: value for key, value in given.items() if key != name}
            yield _nameless(f"header-{name}-{number}-missing", missing)
    for number, producer in enumerate(_PRODUCERS):
        given = {"v": 1, "producer": producer, "epoch": new_epoch(), "seq": 5, "count": 3}
        yield Case(f"header-producer-{number}", b"{", {"dead": 3}, {("dead", "not_json"): 1}, given)
    # No NaN: RabbitMQ's channel ends with an internal error at one, so that none is ever in a queue.
    typed = {"when": datetime(2026, 11, 1, tzinfo=UTC), "price": Decimal("1.5"), "raw": b"\xff"}
    yield _nameless("headers-that-json-does-not-have", typed)
    odd = {"a table": {"x": [1, {"y": None}]}, "a float": 1.5, "": "", "a long one": "x" * 20_000, "\u202e": True}
    yield _nameless("headers-of-others", odd)
    texts = {"v": "1", "producer": "bad", "epoch": new_epoch(), "seq": "5", "count": "3"}
    yield Case("headers-as-texts", b"{", {"dead": 3}, {("dead", "not_json"): 1}, texts)
    zero = {"v": 1, "producer": "bad", "epoch": new_epoch(), "seq": 5, "count": 0}
    yield _nameless("a-heartbeat-that-is-broken", zero)


def _nameless(name: str, given: dict[str, Any]) -> Case:
    """With a body of its own: two messages that say the same are one, and have one letter."""
    return Case(name, b"{%b" % name.encode(), {"dead": 1}, {("dead", "not_json"): 1}, given, is_numbered=False)


def wrappers() -> Iterator[Case]:
    """On Redis a message is JSON around a body."""
    good = json.loads(wrap(envelope(job("wrapped"), epoch=new_epoch())))
    bad: dict[str, Any] = {
        "no-body": {name: value for name, value in good.items() if name != "body"},
        "null-body": good | {"body": None},
        "number-body": good | {"body": 7},
        "list-body": good | {"body": ["x"]},
        "object-body": good | {"body": {"v": 1}},
        "no-base64": good | {"body": "{\u20ac"},
        "base64-cut": good | {"body": good["body"][:-3]},
        "base64-with-blanks": good | {"body": f" {good['body']}\n"},
        "properties-null": good | {"properties": None},
        "properties-list": good | {"properties": []},
        "properties-text": good | {"properties": "x"},
        "null": None,
        "number": 7,
        "text": "x",
        "list": [good],
        "empty": {},
    }
    whole = json.dumps(good).encode()
    raw = {
        "nothing": b"",
        "blank": b" ",
        "no-json": b"hello",
        "cut": whole[:-1],
        "twice": whole * 2,
        "garbage-after": whole + b"x",
        "utf-16": whole.decode().encode("utf-16"),
        "mark": b"\xef\xbb\xbf" + whole,
        "invalid-utf-8": whole.replace(b"base64", b"\xff\xfe"),
        "nul": b"\0" + whole,
        "deep": b"[" * 100_000,
        "pickle": b"\x80\x04K\x07.",
        "envelope-without-wrapping": envelope(job("bare"), epoch=new_epoch()),
    }
    for name, text in {**{name: json.dumps(value).encode() for name, value in bad.items()}, **raw}.items():
        reason = "not_json" if "base64" in name else "not_a_message"
        yield Case(f"wrapper-{name}", b"", {"dead": 1}, {("dead", reason): 1}, wrapper=text, is_numbered=False)
    plain = {"body_encoding": "none"}
    for number, (name, value) in enumerate(
        {
            "content-type": 7,
            "headers": [1, 2],
            "content-encoding": {"a": 1},
            "unknown": "x",
        }.items()
    ):
        body = base64.b64encode(envelope(job(f"odd-wrapping-{number}"), epoch=new_epoch())).decode()
        odd = good | {"body": body, name: value}
        yield Case(f"wrapper-odd-{name}", b"", {"stored": 1}, wrapper=json.dumps(odd).encode())
    text = envelope(job("body-as-text"), epoch=new_epoch()).decode()
    yield Case(
        "wrapper-body-as-text", b"", {"stored": 1}, wrapper=json.dumps(good | {"body": text, "properties": plain}).encode()
    )
    lone = json.dumps(good | {"body": "PLACE", "properties": plain}).replace("PLACE", "\\ud800")
    letters = {("dead", "not_a_message"): 1}
    yield Case("wrapper-lone-surrogate", b"", {"dead": 1}, letters, wrapper=lone.encode(), is_numbered=False)
