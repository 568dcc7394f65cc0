"""What tells the tombstone of an erasure from that of a delete."""

from __future__ import annotations

__all__ = ["ERASED"]

#: In place of the delete event's id; it sorts above every other.
ERASED = "ffffffff-ffff-ffff-ffff-ffffffffffff"
