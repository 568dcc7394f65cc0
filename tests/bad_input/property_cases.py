"""Properties of messages on RabbitMQ that the broker takes from anybody, and that py-amqp cannot read."""

from __future__ import annotations

from collections.abc import Iterator
from struct import pack

import amqp

from penstock_schemas.wire import CONTENT_TYPE
from tests.bad_input.case import envelope, job, new_epoch

__all__ = ["RawProperties", "odd_properties"]

_CONTENT_TYPE, _HEADERS, _CORRELATION_ID = 0x8000, 0x2000, 0x0400
_NESTED = 3_000


class RawProperties(amqp.Message):  # type: ignore[misc]  # amqp has no types
    """A message whose properties are bytes already."""

    def __init__(self, body: bytes, raw: bytes) -> None:
        super().__init__(body)
        self.raw = raw

    def _serialize_properties(self) -> bytes:
        return self.raw


def odd_properties() -> Iterator[tuple[str, RawProperties]]:
    """By name; in each there is a good event whose key is that name."""
    tables = {
        "a time in milliseconds": _header(b"at", b"T" + pack(">Q", 1_700_000_000_000)),
        "a time at the end": _header(b"at", b"T" + pack(">Q", 2**64 - 1)),
        "tables in tables": _header(b"deep", _nested_tables(_NESTED)),
        "some tables in tables": _header(b"deep", _nested_tables(300)),
        "lists in lists": _header(b"deep", _nested_lists(_NESTED)),
        "a name that is no UTF-8": _header(b"\xff\xfe", b"t\1"),
        "a text that is no UTF-8": _header(b"raw", b"S" + pack(">I", 2) + b"\xff\xfe"),
        "came back -1 times": _header(b"x-delivery-count", b"l" + pack(">q", -1)),
        "came back for ever": _header(b"x-delivery-count", b"l" + pack(">q", 2**63 - 1)),
        "count without end": _header(b"count", b"l" + pack(">q", 2**63 - 1)),
        "count below zero": _header(b"count", b"l" + pack(">q", -(2**63))),
        "count is true": _header(b"count", b"t\1"),
    }
    for name, table in tables.items():
        raw = pack(">H", _CONTENT_TYPE | _HEADERS) + _short(CONTENT_TYPE.encode()) + pack(">I", len(table)) + table
        yield name, RawProperties(_body(name), raw)
    for name, flags, values in (
        ("a content type that is no UTF-8", _CONTENT_TYPE, _short(b"\xff\xfe")),
        ("an id that is no UTF-8", _CONTENT_TYPE | _CORRELATION_ID, _short(CONTENT_TYPE.encode()) + _short(b"\xff\xfe")),
        ("no properties", 0, b""),
    ):
        yield name, RawProperties(_body(name), pack(">H", flags) + values)


def _body(name: str) -> bytes:
    return envelope(job(name), epoch=new_epoch())


def _short(text: bytes) -> bytes:
    return pack("B", len(text)) + text


def _header(name: bytes, value: bytes) -> bytes:
    return _short(name) + value


def _nested_tables(depth: int) -> bytes:
    value = b"V"
    for _ in range(depth):
        table = _short(b"a") + value
        value = b"F" + pack(">I", len(table)) + table
    return value


def _nested_lists(depth: int) -> bytes:
    value = b"V"
    for _ in range(depth):
        value = b"A" + pack(">I", len(value)) + value
    return value
