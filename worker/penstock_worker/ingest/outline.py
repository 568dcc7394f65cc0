"""The outline of an envelope: where its events begin and end, without reading any of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["split_events"]

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},:]', re.DOTALL)


def split_events(body: bytes) -> tuple[bytes, list[bytes]] | None:
    """
    Cut an envelope into its head, with an empty list of events, and the bytes of each event, without reading any.

    A number of a million digits or a thousand nested lists in one event thus stop nobody else. None if the outline is not
    that of an envelope: brackets that do not close, or no list under the key "events".
    """
    span = _events_span(body)
    if span is None:
        return None
    start, end, commas = span
    cuts = [start, *(comma + 1 for comma in commas)]
    ends = [*commas, end]
    pieces = [body[cut:stop].strip() for cut, stop in zip(cuts, ends, strict=True)]
    return body[:start] + body[end:], pieces if any(pieces) else []


def _events_span(body: bytes) -> tuple[int, int, list[int]] | None:
    """Where the list of events begins and ends, and the commas between its elements."""
    depth, start, key = 0, None, b""
    commas: list[int] = []
    found: tuple[int, int, list[int]] | None = None
    for token, at in _tokens(body):
        if token in b"[{":
            depth += 1
            if depth == 2 and token == b"[" and key == b'"events"':
                start, commas = at + 1, []  # of several, the last counts, as in any JSON object
        elif token in b"]}":
            depth -= 1
            if depth == 1 and start is not None:
                found, start = (start, at, commas), None
        elif token == b"," and depth == 2 and start is not None:
            commas.append(at)
        elif depth == 1 and token[:1] == b'"':
            key = token
        elif depth == 1 and token == b",":
            key = b""
    return found if depth == 0 else None


def _tokens(body: bytes) -> Iterator[tuple[bytes, int]]:
    for match in _TOKEN.finditer(body):
        yield match[0], match.start()
