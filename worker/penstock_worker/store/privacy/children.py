"""
Children of erased rows that came before their parent's tombstone was written.

Whoever writes a tombstone of a type with children notes its key in `penstock.erased_parents`, in the same transaction. A
sweep waits for the batches that may not have seen the tombstone, empties the children, and notes those that have children
themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock_worker.store.connection import Connection

__all__ = ["note_erased"]


def note_erased(connection: Connection, type: str, versions: Mapping[Any, int]) -> None:
    """Remember rows whose children are to be emptied, with the version up to which they were erased."""
    if versions:
        connection.execute(
            "INSERT INTO penstock.erased_parents (type, key, version) SELECT %s, * FROM unnest(%s::text[], %s::bigint[])",
            [type, list(map(str, versions)), list(versions.values())],
        )
