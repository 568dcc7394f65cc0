"""
One reading of the whole file before anything is written.

It names the import: the same file, read in the same way, gives the same epoch and so the same events, and what is written a
second time changes nothing. A later state of the file gives a later epoch, which wins where a row changed and its time did not.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from penstock_worker.ingest.cloudevents import version_of
from penstock_worker.takeover.events import newest
from penstock_worker.takeover.old_tables import OldTable, read_rows
from penstock_worker.takeover.sqlite_file import quoted
from penstock_worker.takeover.values import Reader

__all__ = ["Survey", "count_orphans", "survey"]

#: Part of the epoch: another way to make events of rows makes other events.
_FORM = 1
#: Rows between two words about the progress.
_STEP = 1_000


@dataclass(frozen=True, slots=True)
class Survey:
    """
    What there is in the file.

    Args:
        epoch: Names the import.
        newest: The newest version that a row has, and that of those that have no time.
        rows: By record type.
    """

    epoch: UUID
    newest: int
    rows: dict[str, int]

    @property
    def total(self) -> int:
        """All rows."""
        return sum(self.rows.values())


def survey(
    connection: sqlite3.Connection, tables: Sequence[OldTable], reader: Reader, now: datetime, tell: Callable[[int], None]
) -> Survey:
    """
    Read all rows once.

    Args:
        connection: The file's.
        tables: Those that are taken over.
        reader: How values are read.
        now: Rows that say they are of the future do not count for the newest.
        tell: Told now and then how many rows were read.
    """
    digest = hashlib.blake2b(repr((_FORM, str(reader.zone), sorted(reader.statuses.items()))).encode(), digest_size=16)
    latest, rows, total = datetime.fromtimestamp(0, UTC), {}, 0
    for table in tables:
        digest.update(repr((table.record.name, table.columns)).encode())
        count = 0
        for row in read_rows(connection, table):
            count += 1
            digest.update(repr(row).encode())
            time = newest(table, row, reader.zone)
            if time is not None and latest < time <= now:
                latest = time
            if (total + count) % _STEP == 0:
                tell(total + count)
        rows[table.record.name] = count
        total += count
    version = version_of(latest)
    return Survey(_epoch(version // 1_000, digest.digest()), version, rows)


def count_orphans(connection: sqlite3.Connection, tables: Sequence[OldTable]) -> int:
    """Rows whose parent is not in the file."""
    by_type = {table.record.name: table for table in tables}
    total = 0
    for table in tables:
        parent = table.record.declaration.parent
        if parent and parent.type in by_type:
            total += _count(connection, table, parent.field, by_type[parent.type])
    return total


def _count(connection: sqlite3.Connection, child: OldTable, field: str, parent: OldTable) -> int:
    of_child, of_parent = _column(child, field), _column(parent, parent.record.key[0])
    (count,) = connection.execute(
        f"SELECT count(*) FROM {quoted(child.name)} AS child WHERE {of_child} IS NOT NULL"
        f" AND {of_child} NOT IN (SELECT {of_parent} FROM {quoted(parent.name)} WHERE {of_parent} IS NOT NULL)"
    ).fetchone()
    return int(count)


def _column(table: OldTable, field: str) -> str:
    """As text, which keys become: a number there is equal to its digits here."""
    return next(f"CAST({quoted(column)} AS TEXT)" for column, own in table.columns if own == field)


def _epoch(milliseconds: int, digest: bytes) -> UUID:
    """A UUIDv7 of that time, in which the content stands for chance."""
    value = (milliseconds & (1 << 48) - 1) << 80 | int.from_bytes(digest, "big") & (1 << 80) - 1
    return UUID(int=value & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62)
