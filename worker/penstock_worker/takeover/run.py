"""
An import: every row an event, written by the writer that ingest uses, with ledger and dead letters.

The events do not go by the broker: there a gigabyte of them would stand before those of the present, and who waits for the end
of an import wants to know then what became of each row.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from penstock_schemas.registry import Registry
from penstock_schemas.wire import CONTENT_TYPE, Envelope
from penstock_worker.ingest.account import count_outcomes
from penstock_worker.ingest.decode import Decoded, decode
from penstock_worker.ingest.message import RawMessage
from penstock_worker.ingest.outcome import Verdict
from penstock_worker.ingest.stopwatch import Stopwatch
from penstock_worker.ingest.write import Writer
from penstock_worker.settings import Settings
from penstock_worker.store.connection import Connection
from penstock_worker.takeover.events import RowReader
from penstock_worker.takeover.old_tables import TYPES, OldTable, find_tables, other_tables, read_rows
from penstock_worker.takeover.sqlite_file import open_file
from penstock_worker.takeover.survey import Survey, count_orphans, survey
from penstock_worker.takeover.values import Reader

__all__ = ["PRODUCER", "Import", "Refused", "Report", "TableReport", "Tell", "TellRefused"]

#: What the ledger and the dead letters call it.
PRODUCER = "import-sqlite"
#: Events, and about how many bytes of them, in a message: of one in which something is wrong every event is read alone.
MESSAGE_EVENTS, MESSAGE_BYTES = 500, 1024 * 1024


@dataclass(slots=True)
class TableReport:
    """What became of the rows of a table, and what of its columns is not a field of its record type, or the other way round."""

    type: str
    rows: int
    outcomes: dict[str, int]
    extra_columns: list[str]
    missing_columns: list[str]


@dataclass(slots=True)
class Report:
    """
    What became of a file.

    `orphans` are executions whose job is not in it; they are stored, and seen. `other_tables` were not looked at. A file that
    `was_imported` before, in this state and with these options, changes nothing: its events count as what they were then.
    """

    file: str
    is_dry_run: bool
    epoch: UUID
    orphans: int
    was_imported: bool = False
    tables: dict[str, TableReport] = field(default_factory=dict)
    other_tables: list[str] = field(default_factory=list)

    @property
    def refused(self) -> int:
        """Rows that are not in their table."""
        fine = ("stored", "superseded")
        return sum(count for table in self.tables.values() for name, count in table.outcomes.items() if name not in fine)


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that was not stored, and why."""

    row: str
    verdict: Verdict


#: Told what is done, how many rows of it, and of how many, None where that is not known.
Tell = Callable[[str, int, int | None], None]
#: Told each row that is not stored.
TellRefused = Callable[[Refused], None]


@dataclass(slots=True)
class _Rehearsal:
    """A batch that is written, looked at, and rolled back."""

    is_rehearsal: bool = True

    def take(self, _connection: Connection, decoded: Decoded) -> Decoded:
        return decoded

    def account(self, connection: Connection, decoded: Decoded) -> None:
        """Nothing: an event of a rehearsal has not ended."""


@dataclass
class Import:
    """
    Takes a file over.

    Args:
        settings: Where to, and how large batches are.
        registry: The record types.
        reader: How values are read.
        chosen: Tables that a person named, see `find_tables`.
        now: What time it is.
        is_dry_run: Roll every batch back.
        tell: Told the progress.
        tell_refused: Told each row that is not stored.
    """

    settings: Settings
    registry: Registry
    reader: Reader
    chosen: Mapping[str, str]
    now: datetime
    is_dry_run: bool = False
    tell: Tell = lambda _what, _done, _total: None
    tell_refused: TellRefused = lambda _refused: None

    def run(self, file: Path) -> Report:
        """
        Import a file; a second time it changes nothing, and what an interrupted one left is done.

        Raises:
            ConfigurationError: The file does not show what is what, or it cannot be read, or not to its end.
            DatabaseAway: As with a damaged file, what was written by then is stored.
        """
        # A thousand equal mistakes a minute hold events back, for they smell of a bad deploy: these are one old file's.
        settings = self.settings.model_copy(update={"dead_letter_rate_per_minute": 2**31})
        with open_file(file) as connection:
            tables = find_tables(connection, self.registry, self.chosen)
            found = survey(connection, tables, self.reader, self.now, lambda done: self.tell("reading", done, None))
            report = Report(str(file), self.is_dry_run, found.epoch, count_orphans(connection, tables))
            report.other_tables = other_tables(connection, tables)
            # Of these types only: its validators take the longer, the more types there are.
            writer = Writer.of(settings, Registry(self.registry.classes[type] for type in TYPES))
            try:
                report.was_imported = _was_imported(writer.database.connection(), found.epoch)
                self._import(connection, tables, found, writer, report)
            finally:
                writer.database.close()
        return report

    def _import(
        self, connection: sqlite3.Connection, tables: list[OldTable], found: Survey, writer: Writer, report: Report
    ) -> None:
        seq = 0
        for table in tables:
            outcomes: Counter[str] = Counter()
            for batch in self._batches(connection, table, found, seq):
                outcomes.update(self._write(writer, batch))
                seq = batch.seq
                self.tell("importing", seq, found.total)
            report.tables[table.name] = TableReport(
                table.record.name, found.rows[table.record.name], dict(outcomes), table.extra, table.missing
            )
        if not self.is_dry_run:
            closing = Envelope(PRODUCER, found.epoch, seq, is_closed=True)
            writer.write([RawMessage(closing.body(), CONTENT_TYPE, closing.headers())])

    def _batches(self, connection: sqlite3.Connection, table: OldTable, found: Survey, seq: int) -> Iterator[_Batch]:
        rows = RowReader(table, self.reader, found.newest)
        batch = _Batch(found.epoch, seq)
        for number, row in enumerate(read_rows(connection, table), 1):
            event = rows.event(row)
            if batch.labels and batch.bytes + len(event) > self.settings.batch_max_bytes:
                yield batch.closed()
                batch = _Batch(found.epoch, batch.seq)
            batch.add(event, rows.label(number, row))
            if len(batch.labels) >= self.settings.batch_max_events:
                yield batch.closed()
                batch = _Batch(found.epoch, batch.seq)
        if batch.labels:
            yield batch.closed()

    def _write(self, writer: Writer, batch: _Batch) -> dict[str, int]:
        decoded = decode(batch.messages, writer.validators, writer.blocks)
        writer.store(decoded, Stopwatch(), _Rehearsal() if self.is_dry_run else None)
        for place, verdict in sorted(_refused(decoded, batch.first), key=lambda pair: pair[0]):
            self.tell_refused(Refused(batch.labels[place], verdict))
        return count_outcomes(decoded)


class _Batch:
    """Rows that are written together: messages, and what each row is called."""

    def __init__(self, epoch: UUID, first: int) -> None:
        self.epoch, self.first, self.bytes = epoch, first, 0
        self.labels: list[str] = []
        self.messages: list[RawMessage] = []
        self._events: list[bytes] = []
        self._event_bytes = 0

    @property
    def seq(self) -> int:
        """The number of the row after the last."""
        return self.first + len(self.labels)

    def add(self, event: bytes, label: str) -> None:
        """Put a row in."""
        if self._events and (len(self._events) >= MESSAGE_EVENTS or self._event_bytes + len(event) > MESSAGE_BYTES):
            self._end_message()
        self._events.append(event)
        self._event_bytes += len(event)
        self.bytes += len(event)
        self.labels.append(label)

    def closed(self) -> _Batch:
        """With all its rows in messages."""
        self._end_message()
        return self

    def _end_message(self) -> None:
        envelope = Envelope(PRODUCER, self.epoch, self.seq - len(self._events), self._events)
        self.messages.append(RawMessage(envelope.body(), CONTENT_TYPE, envelope.headers()))
        self._events, self._event_bytes = [], 0


def _was_imported(connection: Connection, epoch: UUID) -> bool:
    query = "SELECT is_closed FROM penstock.producers WHERE epoch = %s"
    return connection.execute(query, [epoch]).fetchone() == (True,)


def _refused(decoded: Decoded, first: int) -> Iterator[tuple[int, Any]]:
    """The places of rows that are not stored, and why."""
    for event in decoded.events:
        if event.verdict is not None:
            yield event.envelope.seq + event.index - first, event.verdict
    for refused in decoded.refused:
        for index in range(refused.count):
            yield refused.envelope.seq + refused.first + index - first, refused.verdict
