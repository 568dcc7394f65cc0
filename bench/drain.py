"""
Draining a backlog of new `translation.task` rows, beside raw COPY of the same rows.

Each round puts the same messages (500 events each) into the empty queue while no worker runs, then measures how long one worker
with shipped defaults takes (see `harness.timed_drain`), and how long COPY takes to put the very bytes that the worker left in
the table into the same table, emptied, with its key, foreign key and indexes. The sessions are there before. Odd rounds measure
the worker first, even ones COPY; both begin after a CHECKPOINT. A first round, which is not counted, gives the bytes and warms
caches. After each measurement all rows are counted and compared by checksum: with what was sent, and, bookkeeping included,
with the other rounds.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Any

from bench.harness import (
    BROKERS,
    Backlog,
    RoundVoid,
    Site,
    copy_rows,
    describe,
    export_rows,
    median,
    site,
    spread,
    timed_drain,
)
from bench.workload import TASK_DIGEST_SQL, Workload, build_workload

_TABLE = "translation.tasks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--broker", choices=BROKERS, default="redis")
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """
    Run all rounds.

    Raises:
        RoundVoid: Rows or checksums were not what they must be.
    """
    load = build_workload(arguments.events)
    with site(arguments.broker) as place:
        return _Measurement(place, load).run(arguments.rounds)


@dataclass
class _Measurement:
    place: Site
    load: Workload
    drained: list[float] = field(default_factory=list)
    copied: list[float] = field(default_factory=list)
    _rows_digest: str | None = None

    def run(self, rounds: int) -> dict[str, Any]:
        backlog = Backlog(self.place)
        try:
            self._store_sessions(backlog)
            self._drain(backlog)
            columns = self._columns()
            lines = export_rows(self.place, _TABLE, columns)
            for number in range(rounds):
                if number % 2:
                    self.copied.append(self._copy(columns, lines))
                self.drained.append(self._drain(backlog))
                if not number % 2:
                    self.copied.append(self._copy(columns, lines))
        finally:
            backlog.close()
        return self._result(len(lines))

    def _store_sessions(self, backlog: Backlog) -> None:
        backlog.put(self.load.sessions)
        timed_drain(self.place, backlog, -(-self.load.events // 200))

    def _drain(self, backlog: Backlog) -> float:
        self._empty()
        backlog.put(self.load.tasks)
        self.place.connection.execute("CHECKPOINT")
        seconds = timed_drain(self.place, backlog, self.load.events)
        self._check("drain")
        return seconds

    def _copy(self, columns: str, lines: bytes) -> float:
        self._empty()
        self.place.connection.execute("CHECKPOINT")
        seconds = copy_rows(self.place, _TABLE, columns, lines)
        self._check("COPY")
        return seconds

    def _empty(self) -> None:
        self.place.connection.execute(
            f"TRUNCATE {_TABLE}, penstock.ledger, penstock.producers, penstock.dead_letters, penstock.suspects"
        )

    def _check(self, what: str) -> None:
        sent = self.place.value(
            f"SELECT md5(string_agg({TASK_DIGEST_SQL}, '' ORDER BY task_id)) FROM {_TABLE} WHERE error IS NULL"
        )
        if sent != self.load.checksum:
            rows = self.place.value(f"SELECT count(*) FROM {_TABLE}")
            raise RoundVoid(f"after {what} the table is not what was sent: {rows} rows of {self.load.events}")
        rows_digest = self.place.value(
            f"SELECT md5(string_agg(md5((to_jsonb(t) - '_stored_at')::text), '' ORDER BY task_id)) FROM {_TABLE} t"
        )
        if self._rows_digest not in (None, rows_digest):
            raise RoundVoid(f"after {what} the bookkeeping differs from an earlier round's")
        self._rows_digest = rows_digest

    def _columns(self) -> str:
        names: str = self.place.value(
            "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute"
            f" WHERE attrelid = '{_TABLE}'::regclass AND attnum > 0 AND NOT attisdropped"
        )
        return names

    def _indexes(self) -> list[str]:
        keys = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'f'"
        indexes = "SELECT indexdef FROM pg_indexes WHERE schemaname || '.' || tablename = %s ORDER BY 1"
        return [row[0] for query in (indexes, keys) for row in self.place.connection.execute(query, [_TABLE])]

    def _result(self, bytes_copied: int) -> dict[str, Any]:
        events = self.load.events
        drain_rates = [events / seconds for seconds in self.drained]
        copy_rates = [events / seconds for seconds in self.copied]
        ratios = [drained / copied for drained, copied in zip(drain_rates, copy_rates, strict=True)]
        return {
            "name": "drain",
            "broker": self.place.broker,
            "events": events,
            "rounds": len(ratios),
            "events_per_s": round(median(drain_rates)),
            "copy_rows_per_s": round(median(copy_rates)),
            "ratio": round(median(drain_rates) / median(copy_rates), 3),
            "spread": {
                "events_per_s": spread(drain_rates),
                "copy_rows_per_s": spread(copy_rates),
                "ratio": spread(ratios, 3),
            },
            "rows": events,
            "bytes_per_row": round(bytes_copied / events),
            "message_bytes_per_event": round(self.load.bytes_per_event),
            "indexes": self._indexes(),
            **describe(self.place),
        }
