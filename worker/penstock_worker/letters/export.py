"""Letters as lines of JSON, and payloads as text that no terminal obeys."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from penstock_worker.letters.patch import dump_exact, load_exact
from penstock_worker.store.connection import Connection
from penstock_worker.store.letter_filter import LetterFilter
from penstock_worker.store.stored_letters import stream_letters

__all__ = ["as_json", "export_lines", "pretty", "visible"]


def export_lines(connection: Connection, meant: LetterFilter) -> Iterator[str]:
    """One line for each letter that is meant, with its end; one letter at a time is in memory."""
    for letter in stream_letters(connection, meant):
        yield json.dumps(as_json(letter), default=str) + "\n"


def as_json(letter: dict[str, Any]) -> dict[str, Any]:
    """A letter for programs: `payload` is a text, or `payload_base64` where the bytes are no UTF-8."""
    payload: bytes = letter["payload"]
    others = {name: value for name, value in letter.items() if name != "payload"} | {"at": letter["at"].isoformat()}
    try:
        return others | {"payload": payload.decode()}
    except UnicodeDecodeError:
        return others | {"payload_base64": base64.b64encode(payload).decode()}


def pretty(payload: bytes) -> str:
    """A payload for people: JSON indented, other text as it is, anything else as hexadecimal digits; all of it visible."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return payload.hex(" ", 2)
    with suppress(ValueError, RecursionError):
        text = dump_exact(load_exact(text), 2, is_ascii=False)
    return visible(text)


def visible(text: str) -> str:
    """A text in which control characters, bidi marks and whatever else cannot be seen are written out; lines stay lines."""
    return "".join(part if part == "\n" or part.isprintable() else _written_out(part) for part in text)


def _written_out(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
