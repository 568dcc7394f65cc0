"""What the checker looks at, read from the database; and the tables that it is about, made there."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import sql

from penstock_migrations.run import upgrade
from penstock_schemas.registry import load_registry
from penstock_worker.store.partitions import ensure_partitions
from penstock_worker.store.tables import metadata_for
from tests.cases import TYPES
from tests.chaos.checker import Found, Key, Tables
from tests.records import REGISTRY

__all__ = ["RECORDS_MODULE", "create_tables", "read_found", "read_outcomes"]

#: For `PENSTOCK_RECORDS`.
RECORDS_MODULE = "tests.records"
#: For `PYTHONPATH`: the tests are in no distribution.
ROOT = Path(__file__).parents[2]


def create_tables(url: str) -> None:
    """Penstock's own tables by its migrations, and those of tests/records.py beside them."""
    upgrade(url, load_registry(()))
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), poolclass=sa.NullPool)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA lab")
        metadata_for(load_registry((RECORDS_MODULE,))).create_all(engine)
        for record in REGISTRY.values():
            ensure_partitions(connection, record)


def read_outcomes(connection: psycopg.Connection[Any]) -> dict[Key, set[str]]:
    """All that the ledger tells, by epoch and number."""
    outcomes: dict[Key, set[str]] = defaultdict(set)
    found = connection.execute(
        "SELECT epoch::text, outcome, range_agg(seqs)::text::int8multirange FROM penstock.ledger GROUP BY epoch, outcome"
    )
    for epoch, outcome, ranges in found:
        for part in ranges:
            for seq in range(part.lower, part.upper):
                outcomes[epoch, seq].add(outcome)
    return outcomes


def read_found(connection: psycopg.Connection[Any]) -> Found:
    """All of it."""
    letters = connection.execute("SELECT id::text, state, reason FROM penstock.dead_letters")
    return Found(
        _read_rows(connection),
        read_outcomes(connection),
        {event_id: (state, reason) for event_id, state, reason in letters},
    )


def _read_rows(connection: psycopg.Connection[Any]) -> Tables:
    tables: Tables = {}
    for name, record in REGISTRY.items():
        table = sql.Identifier(record.declaration.schema, record.declaration.table_name)
        rows = connection.execute(sql.SQL("SELECT to_jsonb(t) - '_stored_at' FROM {} AS t").format(table))
        tables[name] = {
            tuple(row[column] for column in TYPES[name]["key"]): {
                name: value for name, value in row.items() if value is not None
            }
            for (row,) in rows
        }
    return tables
