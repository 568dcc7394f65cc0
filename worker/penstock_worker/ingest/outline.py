"""The outline of an envelope: where its events begin and end, without reading any of them."""

from __future__ import annotations

import re

__all__ = ["split_events"]

# Possessive (*+, ++) and with a string that may end with the body, so that no body is read twice over: a quotation mark that is
# never closed would otherwise be tried again at every one that follows. Most strings end at the next quotation mark, which is
# found several times as fast as by looking for backslashes as well.
_STRING = rb'"(?:[^"]*+(?<!\\)"|[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z))'
#: What tells events apart, down to the list of events.
_TOKEN = re.compile(_STRING + rb"|[\[\]{},:]", re.DOTALL)
#: Inside an event: whatever is no bracket, then brackets of one direction.
_OTHER = rb'[^"\[\]{}]*+'
_BRACKETS = re.compile(_OTHER + rb"(?:" + _STRING + _OTHER + rb")*+([\[{]++|[\]}]++)", re.DOTALL)
#: Inside the envelope, inside the list of events.
_LIST_DEPTH = 2


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
    depth, start, key, at = 0, None, b"", 0
    commas: list[int] = []
    found: tuple[int, int, list[int]] | None = None
    while match := _TOKEN.search(body, at):
        token, at = match[0], match.end()
        if token in b"[{":
            depth += 1
            if depth == _LIST_DEPTH and token == b"[" and key == b'"events"':
                start, commas = at, []  # of several, the last counts, as in any JSON object
            elif depth > _LIST_DEPTH:
                at = _end_of_nested(body, at)
                depth = _LIST_DEPTH
        elif token in b"]}":
            depth -= 1
            if depth == 1 and start is not None:
                found, start = (start, match.start(), commas), None
        elif token == b"," and depth == _LIST_DEPTH and start is not None:
            commas.append(match.start())
        elif depth == 1 and token[:1] == b'"':
            key = token
        elif depth == 1 and token == b",":
            key = b""
    return found if depth == 0 else None


def _end_of_nested(body: bytes, at: int) -> int:
    """Behind the bracket that closes the one before `at`; the body's end if none does."""
    depth = 1
    while match := _BRACKETS.match(body, at):
        run, at = match[1], match.end()
        if run[:1] in b"[{":
            depth += len(run)
        elif len(run) >= depth:
            return at - (len(run) - depth)
        else:
            depth -= len(run)
    return len(body)
