"""What the tests of dead letters share: events that fail, a writer to fail with, a look at all that is in the database."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg import sql

from penstock_schemas.record import Record
from penstock_schemas.records import guardian, scheduler, translation
from penstock_schemas.registry import Registry, load_registry
from penstock_schemas.wire import CONTENT_TYPE, Envelope, encode_event, new_epoch
from penstock_worker.ingest.message import RawMessage
from penstock_worker.ingest.write import Writer
from penstock_worker.letters.replay import Replay
from penstock_worker.letters.summary import Summary
from penstock_worker.settings import Settings
from penstock_worker.store.connection import Database, connect_with
from penstock_worker.store.ledger import fold
from penstock_worker.store.letter_filter import LetterFilter

__all__ = ["ALL", "VERSION", "Office", "event", "without"]

#: Before the present, and the same for all events of a test run.
VERSION = 1_700_000_000_000_000
ALL = LetterFilter()


def event(type: str, data: Any, version: int = VERSION, op: str = "upsert") -> bytes:
    """One event as it is on the wire, right or wrong."""
    return encode_event(type, op, version, json.dumps(data).encode())  # type: ignore[arg-type]  # wrong ones too


def without(*types: str) -> Registry:
    """The built-in types but these."""
    found = (record for module in (guardian, scheduler, translation) for record in vars(module).values())
    records = [record for record in found if isinstance(record, type) and "__record__" in vars(record)]
    return Registry(record for record in records if record.__record__.type not in types)


class Office:
    """A database in which events fail and letters are replayed; one producer whose events are numbered."""

    def __init__(self, url: str, registry: Registry | None = None, **settings: Any) -> None:
        self.url, self.epoch = url, new_epoch()
        self.settings = Settings(database_url=url, **settings)
        self._seq = 0
        self._writers: list[Writer] = []
        self.connection = psycopg.connect(url, autocommit=True, options="-c timezone=UTC")
        self.writer = self.open_writer(registry)

    def open_writer(self, registry: Registry | None = None, **settings: Any) -> Writer:
        """A writer of its own connection."""
        chosen = self.settings.model_copy(update=settings)
        writer = Writer(Database(connect_with(chosen)), registry or load_registry(), chosen, sleep=lambda _: None)
        self._writers.append(writer)
        return writer

    def close(self) -> None:
        for writer in self._writers:
            writer.database.close()
        self.connection.close()

    def message(self, *events: bytes, **head: Any) -> RawMessage:
        """Penstock's own envelope of the next numbers."""
        envelope = Envelope("office", self.epoch, self._seq, events)
        self._seq += len(events)
        body = envelope.body()
        if head:
            body = json.dumps(json.loads(body) | head).encode()
        return RawMessage(body, CONTENT_TYPE, envelope.headers())

    def write(self, *events: bytes) -> dict[str, int]:
        return self.writer.write([self.message(*events)]).outcomes

    def write_records(self, *records: Record, version: int = VERSION) -> dict[str, int]:
        return self.write(*(encode_event(r.__record__.type, "upsert", version, r.to_json()) for r in records))

    def replay(
        self, meant: LetterFilter = ALL, writer: Writer | None = None, limit: int | None = None, **options: Any
    ) -> Summary:
        return Replay(writer or self.writer, **options).run(meant, limit)

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        cursor = self.connection.execute(statement.encode(), values or None)
        return cursor.fetchall() if cursor.description else []

    def letters(self) -> list[tuple[Any, ...]]:
        """State and reason of each, in the order of the events."""
        return self.query("SELECT state, reason FROM penstock.dead_letters ORDER BY seq NULLS FIRST, id")

    def outcomes(self) -> dict[str, int]:
        """Events of the producer by outcome, each counted once."""
        found = fold(self.connection, [self.epoch])
        return {part.outcome: sum(r.upper - r.lower for r in part.seqs) for part in found}

    def snapshot(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table, where it lies in its file: what is equal has not been touched."""
        tables = self.query(
            "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
            " WHERE relkind = 'r' AND nspname NOT IN ('pg_catalog', 'information_schema') AND relpersistence <> 't'"
        )
        return {".".join(table): self._rows(table) for table in tables}

    def _rows(self, table: Iterable[str]) -> list[tuple[Any, ...]]:
        query = sql.SQL("SELECT ctid::text, xmin::text, t::text FROM {} AS t ORDER BY ctid").format(sql.Identifier(*table))
        return self.connection.execute(query).fetchall()
