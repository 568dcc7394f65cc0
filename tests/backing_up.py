"""Databases with all kinds of values in them, and what is in a database, to compare."""

from __future__ import annotations

from typing import Any

import psycopg

from penstock_worker.store.backup.sums import TableSum, prepare_session, sum_tables

__all__ = ["content_of", "databases_beside", "fill", "people_in"]

#: Each kind of value, row and table that there is: Unicode, JSON, fractions, times, a tombstone, a placeholder, partitions,
#: ranges, bytes.
_ROWS = """
    INSERT INTO translation.sessions (session_id, user_id, status, metadata, started_at, _version, _event) VALUES
        ('s-1', 'ada', 'running', '{"näme": "日本 🌊 \\u0001", "n": [1, 2.50, null]}', '2026-03-29 01:30:00.123456+00', 7,
         gen_random_uuid()),
        ('quote''\n\t"s', 'bob', 'completed', NULL, 'infinity', 9, gen_random_uuid());
    INSERT INTO translation.sessions (session_id, _deleted_version, _deleted_event) VALUES ('gone', 12, gen_random_uuid());
    INSERT INTO translation.sessions (session_id) VALUES ('placeholder');
    INSERT INTO translation.tasks (task_id, session_id, tokens, _version, _oldest, _event, _stamps, _extra)
        SELECT 't-' || n, 's-1', n, n, n, gen_random_uuid(), '{"status": ["01", "x"]}', '{"new": 1}'
        FROM generate_series(1, 50) AS n;
    INSERT INTO guardian.memories (memory_id, user_id, strength, _version, _event)
        VALUES ('m-1', 'ada', 0.1::float8 + 0.2, 1, gen_random_uuid()), ('m-2', 'ada', 1e-300, 1, gen_random_uuid());
    INSERT INTO guardian.metrics (id, timestamp, agent_performance, _version, _event)
        SELECT gen_random_uuid(), now() - n * interval '20 days', '{"a": 0.1}', 1, gen_random_uuid()
        FROM generate_series(0, 5) AS n;
    INSERT INTO penstock.dead_letters (id, state, reason, detail, fingerprint, payload)
        VALUES (gen_random_uuid(), 'dead', 'unparsable', 'é', 'f', decode('00ff0a0d5c27', 'hex'));
    INSERT INTO penstock.ledger (epoch, seqs, outcome) VALUES (gen_random_uuid(), '[1,100)', 'stored');
"""


def fill(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(_ROWS.encode())


def content_of(url: str) -> dict[str, TableSum]:
    """Every table that has rows, but for those of the runs, which grow with every backup."""
    with psycopg.connect(url, autocommit=True) as connection:
        prepare_session(connection)
        sums = sum_tables(connection, lambda done, tables: None)
    return {name: found for name, found in sums.items() if found.rows and name != "penstock.maintenance_runs"}


def people_in(url: str) -> list[Any]:
    with psycopg.connect(url) as connection:
        query = "SELECT user_id FROM translation.sessions WHERE user_id IS NOT NULL ORDER BY 1"
        return [person for (person,) in connection.execute(query).fetchall()]


def databases_beside(url: str) -> list[str]:
    """Scratch databases that are on the server."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT datname FROM pg_database WHERE starts_with(datname, 'penstock_scratch_')").fetchall()
    return [name for (name,) in rows]
