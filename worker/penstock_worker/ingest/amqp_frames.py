"""
What py-amqp must not read by itself: properties of messages, which anybody may have set to anything.

It raises at a time after the year 9999 (milliseconds where seconds belong), at a text that is not UTF-8 and at tables within
tables within tables. It does so in the worker's event loop, which would end the worker, and the next one to get the message.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from struct import error as struct_error
from typing import Any

from amqp.exceptions import AMQPError
from amqp.method_framing import frame_handler
from amqp.serialization import decode_properties_basic
from amqp.spec import Basic

__all__ = ["careful_frames", "properties_of"]

Frame = tuple[int, int, bytes]

_METHOD, _HEADER = 1, 2
#: Of a header frame: where its properties begin, and what stands there if it has none.
_PROPERTIES_AT, _NO_PROPERTIES = 12, b"\0\0"
#: Of a delivery: where its consumer's name begins, and the bytes of tag and flags behind it.
_CONSUMER_AT, _TAG_BYTES = 4, 9
_DELIVER = bytes((0, Basic.Deliver[0], 0, Basic.Deliver[1]))
#: In the first byte of the flags: whether there is a content type.
_HAS_CONTENT_TYPE = 0x80
#: Tables within tables that a header may have; of one that has more, so many characters are kept, as a text.
_MAX_LEVELS, _MAX_TEXT = 10, 1_000
#: Properties that are remembered as they were read, and the bytes that such may have.
_REMEMBERED, _MAX_REMEMBERED = 64, 512


def careful_frames(connection: Any, callback: Callable[..., None]) -> Callable[[Frame], bool]:
    """Py-amqp's `frame_handler`, with the properties of messages read here."""
    properties: dict[int, dict[str, Any]] = {}

    def with_properties(channel: int, method: Any, arguments: bytes, message: Any) -> None:
        if message is not None:
            message.properties = properties.pop(channel)
        callback(channel, method, arguments, message)

    handle = frame_handler(connection, with_properties)

    def on_frame(frame: Frame) -> bool:
        kind, channel, payload = frame
        if kind == _HEADER:
            properties[channel] = properties_of(payload[_PROPERTIES_AT:])
            frame = kind, channel, payload[:_PROPERTIES_AT] + _NO_PROPERTIES
        elif kind == _METHOD and payload[:_CONSUMER_AT] == _DELIVER:
            frame = kind, channel, _without_odd_route(payload)
        return bool(handle(frame))

    return on_frame


def properties_of(raw: bytes) -> dict[str, Any]:
    """
    Properties that are safe to pickle and to show; of those that cannot be read, the content type if there is one.

    Not to be changed: messages of one sender often have the same ones to the byte, and then get the same object.
    """
    return _remembered(raw) if len(raw) <= _MAX_REMEMBERED else _decoded(raw)


def _decoded(raw: bytes) -> dict[str, Any]:
    try:
        properties: dict[str, Any] = decode_properties_basic(raw, 0)[0]
        headers = properties.get("application_headers") or {}
        for name, value in headers.items():
            if isinstance(value, dict | list) and not _is_shallow(value, _MAX_LEVELS):
                headers[name] = repr(value)[:_MAX_TEXT]
    except (ValueError, ArithmeticError, LookupError, OSError, RecursionError, AMQPError, struct_error):
        return _content_type(raw)
    return properties


_remembered = lru_cache(maxsize=_REMEMBERED)(_decoded)


def _is_shallow(value: Any, levels: int) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_shallow(part, levels - 1) for part in parts)


def _content_type(raw: bytes) -> dict[str, Any]:
    if not raw[0] & _HAS_CONTENT_TYPE:
        return {}
    start = len(_NO_PROPERTIES) + 1
    return {"content_type": raw[start : start + raw[start - 1]].decode(errors="replace")}


def _without_odd_route(payload: bytes) -> bytes:
    """A delivery without the names of its exchange and its route, which nobody asks for, if they may not be UTF-8."""
    end = _CONSUMER_AT + 1 + payload[_CONSUMER_AT] + _TAG_BYTES
    return payload if payload[end:].isascii() else payload[:end] + b"\0\0"
