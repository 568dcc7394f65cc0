"""Texts from outside, made so that PostgreSQL can store and index them. What it cannot hold is made visible."""

from __future__ import annotations

import zlib

__all__ = ["indexable", "storable"]

#: Characters of a text that is stored for a person to read.
MAX_STORED = 2_000
#: Characters of one that stands in an index, a row of which has room for 2,704 bytes altogether.
MAX_INDEXED = 100


def storable(text: str) -> str:
    """A text without NUL and lone surrogates, cut to `MAX_STORED`."""
    return _visible(text)[:MAX_STORED]


def indexable(text: str) -> str:
    """The same of at most `MAX_INDEXED` characters; of a longer one a hash tells it from others that begin like it."""
    visible = _visible(text)
    if len(visible) <= MAX_INDEXED:
        return visible
    return f"{visible[: MAX_INDEXED - 9]}_{zlib.crc32(visible.encode()):08x}"


def _visible(text: str) -> str:
    return text.replace("\x00", "\\u0000").encode("utf-8", "backslashreplace").decode()
