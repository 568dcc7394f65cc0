"""Where the events of a whole message lie in its text: a letter of one is cut, and the rest of it stays as it was written."""

from __future__ import annotations

import json
import re

__all__ = ["event_spans"]

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")


def event_spans(text: str) -> list[tuple[int, int]]:
    """
    Where each event begins and ends, in an envelope or in a list of events.

    Raises:
        ValueError: It is not JSON of that form, or nested too deeply.
    """
    try:
        at = _skip(text, 0)
        if text[at : at + 1] == "[":
            return _elements(text, at)[0]
        spans: list[tuple[int, int]] = []
        if text[at : at + 1] != "{":
            raise ValueError("no object")
        at = _skip(text, at + 1)
        while text[at] != "}":
            name, at = _DECODER.raw_decode(text, at)
            at = _skip(text, at)
            if text[at] != ":":
                raise ValueError("no member of an object")
            at = _skip(text, at + 1)
            if name == "events" and text[at] == "[":
                spans, at = _elements(text, at)
            else:
                _, at = _DECODER.raw_decode(text, at)
            at = _after_comma(text, at, "}")
    except (IndexError, RecursionError) as exc:
        raise ValueError("no envelope") from exc
    return spans


def _elements(text: str, at: int) -> tuple[list[tuple[int, int]], int]:
    """The elements of the list that begins at a place, and the place behind it."""
    spans = []
    at = _skip(text, at + 1)
    while text[at] != "]":
        _, end = _DECODER.raw_decode(text, at)
        spans.append((at, end))
        at = _after_comma(text, end, "]")
    return spans, at + 1


def _after_comma(text: str, at: int, end: str) -> int:
    at = _skip(text, at)
    if text[at] == ",":
        return _skip(text, at + 1)
    if text[at] != end:
        raise ValueError("no comma")
    return at


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
