"""The tables of tests/records.py in a real database: deliver messages to them, read all that came of it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import sql

from penstock_worker import store
from penstock_worker.ingest.message import RawMessage
from penstock_worker.ingest.write import Writer
from penstock_worker.settings import Settings
from penstock_worker.store.partitions import ensure_partitions
from penstock_worker.store.tables import metadata_for
from tests.cases import LATEST, TYPES, Delivery, Wire
from tests.model import fold
from tests.records import REGISTRY

__all__ = ["FUNCTIONS", "Lab", "differences"]

FUNCTIONS = Path(store.__file__).with_name("functions.sql")
CONTENT_TYPE = "application/vnd.penstock.v1+json"


class Lab:
    """One database with empty tables, and a writer for each of `connections` connections."""

    def __init__(self, url: str, connections: int = 2) -> None:
        self._settings = Settings(database_url=url)
        self.writers: list[Writer] = []
        self._connection = psycopg.connect(url, autocommit=True, options="-c timezone=UTC")
        self._create_tables(url)
        self.execute(f'ALTER DATABASE "{self._connection.info.dbname}" SET synchronous_commit = off')  # for speed
        self._tables = [REGISTRY[name].declaration.table for name in reversed(list(REGISTRY))]
        self.renew(connections)

    def _create_tables(self, url: str) -> None:
        self.execute("CREATE SCHEMA penstock; CREATE SCHEMA lab")
        self.execute(FUNCTIONS.read_text())
        engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), poolclass=sa.NullPool)
        metadata_for(REGISTRY).create_all(engine)
        for record in REGISTRY.values():
            ensure_partitions(self._connection, record)

    def renew(self, connections: int) -> None:
        """Replace the writers, whose SQL is built once, after a mutation."""
        for writer in self.writers:
            writer.database.close()
        self.writers = [Writer.of(self._settings, REGISTRY) for _ in range(connections)]

    def close(self) -> None:
        for writer in self.writers:
            writer.database.close()
        self._connection.close()

    def execute(self, statement: str) -> None:
        self._connection.execute(statement.encode())

    def clear(self) -> None:
        """Empty all tables; they are small, so that this is faster than TRUNCATE."""
        tables = [*self._tables, "penstock.ledger", "penstock.dead_letters", "penstock.producers"]
        self.execute("; ".join(f"DELETE FROM {table}" for table in tables))

    def deliver(self, delivery: Delivery) -> dict[str, int]:
        """Write the batches of each connection in a thread of its own, and add up the outcomes."""
        totals: dict[str, int] = {}
        failures: list[Exception] = []
        start = threading.Barrier(len(delivery.connections))

        def run(writer: Writer, batches: Sequence[Sequence[Wire]]) -> None:
            start.wait(30)
            try:
                for batch in batches:
                    result = writer.write([RawMessage(wire.body, CONTENT_TYPE, wire.headers) for wire in batch])
                    for outcome, count in result.outcomes.items():
                        totals[outcome] = totals.get(outcome, 0) + count
            except Exception as exc:  # noqa: BLE001  # raised below, in the test's own thread
                failures.append(exc)

        pairs = list(zip(self.writers, delivery.connections, strict=False))
        threads = [threading.Thread(target=run, args=pair) for pair in pairs[1:]]
        for thread in threads:
            thread.start()
        run(*pairs[0])
        for thread in threads:
            thread.join(120)
        if failures:
            raise failures[0]
        return totals

    def rows(self) -> dict[str, dict[tuple[Any, ...], dict[str, Any]]]:
        """The rows by type and key, without what is NULL."""
        parts = (
            sql.SQL("SELECT {}, to_jsonb(t) - '_stored_at' FROM {} AS t").format(
                sql.Literal(name), sql.Identifier(record.declaration.schema, record.declaration.table_name)
            )
            for name, record in REGISTRY.items()
        )
        tables: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = {name: {} for name in REGISTRY}
        for name, row in self._connection.execute(sql.SQL(" UNION ALL ").join(parts)):
            key = tuple(row[column] for column in TYPES[name]["key"])
            assert tables[name].setdefault(key, row) is row
        return {
            name: {key: {column: value for column, value in row.items() if value is not None} for key, row in table.items()}
            for name, table in tables.items()
        }

    def letters(self) -> list[tuple[str, str, str]]:
        """Event id, state and reason of every dead letter; to the model it is one reason whoever finds an event invalid."""
        found = self._connection.execute(
            "SELECT id::text, state, CASE reason WHEN 'refused_by_database' THEN 'invalid' ELSE reason END "
            "FROM penstock.dead_letters ORDER BY id"
        )
        return found.fetchall()

    def ledger(self) -> set[tuple[str, int, str]]:
        """Epoch, number and outcome, `stored` and `superseded` being one: which of them it is depends on the order."""
        found = self._connection.execute(
            "SELECT epoch::text, CASE WHEN outcome IN ('stored', 'superseded') THEN 'merged' ELSE outcome END AS ending, "
            "range_agg(seqs)::text::int8multirange FROM penstock.ledger GROUP BY epoch, ending"
        )
        return {
            (epoch, number, ending)
            for epoch, ending, ranges in found
            for part in ranges
            for number in range(part.lower, part.upper)
        }


def differences(lab: Lab, events: Sequence[Mapping[str, Any]], delivery: Delivery) -> dict[str, tuple[Any, Any]]:
    """Deliver events into empty tables: what is there afterwards beside what the model says, where they are not equal."""
    lab.clear()
    totals = lab.deliver(delivery)
    tables, outcomes = fold(TYPES, events, LATEST)
    rows = _without_idle_placeholders(lab.rows(), tables, events)
    letters = sorted((event_id, *end) for (_, _, event_id), end in outcomes.items() if end[0] in ("dead", "held"))
    messages = [wire for batches in delivery.connections for batch in batches for wire in batch]
    compared = {
        "dead letters": (lab.letters(), letters),
        "ledger": (lab.ledger(), {(epoch, seq, outcome) for (epoch, seq, _), (outcome, _) in outcomes.items()}),
        "outcomes": (sum(totals.values()), sum(wire.headers["count"] for wire in messages)),
    }
    for name in TYPES:
        keys = rows[name].keys() | tables[name].keys()
        compared |= {f"{name} {key}": (rows[name].get(key), tables[name].get(key)) for key in keys}
    return {name: pair for name, pair in compared.items() if pair[0] != pair[1]}


def _without_idle_placeholders(rows: Any, expected: Any, events: Sequence[Mapping[str, Any]]) -> Any:
    """
    Leave out placeholders of children that are deleted, or about to be.

    Whether one was made depends on which came first, child or delete. It is hidden, and purged when it is childless and old.
    """
    wanted = [
        (kind["parent"][1], (event["data"].get(kind["parent"][0]),))
        for event in events
        if (kind := TYPES.get(event["type"])) and kind["parent"]
    ]
    return {
        name: {
            key: row
            for key, row in table.items()
            if key in expected[name] or (name, key) not in wanted or row.keys() != set(TYPES[name]["key"])
        }
        for name, table in rows.items()
    }
