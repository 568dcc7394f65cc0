"""Emptying the children that came before their parent's tombstone; see `children`."""

from __future__ import annotations

from collections import defaultdict
from typing import cast

from psycopg import sql

from penstock_schemas.record import RecordType
from penstock_worker.store.privacy.barrier import wait_for_batches
from penstock_worker.store.privacy.tombstones import Eraser, erased_already

__all__ = ["sweep"]

#: Parents whose children are looked for together.
PARENTS = 2_000


def sweep(eraser: Eraser, patience_s: float, max_parents: int | None = None) -> dict[str, int]:
    """
    Empty the children of erased rows, and theirs; safe to stop, to run again, and to run twice at once.

    Args:
        eraser: Empties them.
        patience_s: Seconds after which a batch counts as stuck.
        max_parents: How many erased rows are looked at, at least a step of them; None for all.

    Returns:
        Rows that were emptied, by type.
    """
    emptied: dict[str, int] = defaultdict(int)
    left = max_parents
    while left is None or left > 0:
        query = "SELECT id, type, key, version FROM penstock.erased_parents ORDER BY id LIMIT %s"
        noted = cast("list[tuple[int, str, str, int]]", eraser.connection.execute(query, [PARENTS]).fetchall())
        if not noted:
            break
        wait_for_batches(eraser.connection, patience_s)
        parents: dict[tuple[str, int], set[str]] = defaultdict(set)
        for _, name, key, version in noted:
            parents[name, version].add(key)
        for (name, version), keys in parents.items():
            for child in eraser.registry.values():
                if child.declaration.parent and child.declaration.parent.type == name:
                    emptied[child.name] += eraser.erase(child, _children(child, keys, version), version)
        eraser.connection.execute("DELETE FROM penstock.erased_parents WHERE id = ANY (%s)", [[number for number, *_ in noted]])
        left = None if left is None else left - len(noted)
    return {name: rows for name, rows in emptied.items() if rows}


def _children(child: RecordType, keys: set[str], version: int) -> sql.Composed:
    """The SQL condition that a row falls with one of these parents, and holds something still."""
    assert child.declaration.parent is not None, "the caller has looked"
    field = child.declaration.parent.field
    return sql.SQL("r.{} = ANY ({}::{}[]) AND r._oldest <= {} AND NOT {}").format(
        sql.Identifier(field), sorted(keys), sql.SQL(str(child.by_name[field].kind)), version, erased_already(version)
    )
