"""From a row of the old file to an event."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

from pydantic_core import to_json

from penstock_schemas.wire import encode_event
from penstock_worker.ingest.cloudevents import version_of
from penstock_worker.takeover.old_tables import TYPES, OldTable
from penstock_worker.takeover.sqlite_file import Value
from penstock_worker.takeover.values import Reader, read_time

__all__ = ["RowReader", "newest"]


@dataclass(frozen=True, slots=True)
class RowReader:
    """
    Makes events of a table's rows.

    Args:
        table: The table.
        reader: How values are read.
        undated: The version of rows that have no time of their own.
    """

    table: OldTable
    reader: Reader
    undated: int

    def event(self, row: Sequence[Value]) -> bytes:
        """
        The row as an event on the wire, right or wrong.

        Columns that the table lacks are absent, so that a row has no say in them.
        """
        record = self.table.record
        data = {}
        for (_, field), value in zip(self.table.columns, row, strict=True):
            column = record.by_name.get(field)
            read = self.reader.read(column, value)
            if column is not None or read is not None:
                data[field] = read
        time = newest(self.table, row, self.reader.zone)
        version = self.undated if time is None else max(0, version_of(time))
        return encode_event(record.name, "upsert", version, to_json(data))

    def label(self, number: int, row: Sequence[Value]) -> str:
        """The row for a person: its table, place and key."""
        key = ", ".join(str(self.reader.read(None, row[place])) for place in self._places(self.table.record.key))
        return f"{self.table.name} row {number:,} ({key})"

    def _places(self, fields: Iterable[str]) -> list[int]:
        return [place for place, (_, field) in enumerate(self.table.columns) if field in set(fields)]


def newest(table: OldTable, row: Sequence[Value], zone: tzinfo) -> datetime | None:
    """When a row last changed, as far as it says itself."""
    dated = TYPES[table.record.name]
    times = (
        read_time(value, zone)
        for (_, field), value in zip(table.columns, row, strict=True)
        if field in dated and value is not None
    )
    return max((time for time in times if time is not None), default=None)
