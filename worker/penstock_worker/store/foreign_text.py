"""
Texts from outside, made so that PostgreSQL can store and index them, and a terminal show them.

What is no character, what controls a terminal and what turns the direction of writing is made visible.
"""

from __future__ import annotations

import re
import zlib

__all__ = ["indexable", "storable"]

#: Characters of a text that is stored for a person to read.
MAX_STORED = 2_000
#: Characters of one that stands in an index, a row of which has room for 2,704 bytes altogether.
MAX_INDEXED = 100


#: Controls of old and new, ends of line and paragraph, marks that reorder what stands beside them, and no characters at all.
_HIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]")


def storable(text: str) -> str:
    """A text of one line, cut to `MAX_STORED`."""
    return _visible(text)[:MAX_STORED]


def indexable(text: str) -> str:
    """The same of at most `MAX_INDEXED` characters; of a longer one a hash tells it from others that begin like it."""
    visible = _visible(text)
    if len(visible) <= MAX_INDEXED:
        return visible
    return f"{visible[: MAX_INDEXED - 9]}_{zlib.crc32(visible.encode()):08x}"


def _visible(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
