"""
What the exporter asks of PostgreSQL: each measure is one statement that reads, with the figures that follow from its rows.

A figure that cannot be known is left out, never 0. Counters are the server's own, so that they go on over a restart of the
exporter and begin again with the server's statistics, as Prometheus expects of a counter.

Without `pg_read_all_stats` PostgreSQL hides what other users' sessions do: they are counted as `hidden`, and as long as there
are any, `penstock_database_slow_queries` and `penstock_database_oldest_transaction_seconds` are left out.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from penstock_worker.settings import Settings
from penstock_worker.store.connection import Connection, connect_with
from penstock_worker.store.schedule import LEADER_LOCK

__all__ = ["EXACT_LETTERS", "LETTER_GROUPS", "MEASURES", "Figures", "Measure", "cut_off", "open_measuring", "take"]

#: By metric: a number, or numbers by the values of its labels.
Figures = dict[str, float | Mapping[str, float] | Mapping[tuple[str, ...], float]]

#: Letters of a state that are counted one by one; above it PostgreSQL's estimate is told. To count a million takes 0.2 s.
EXACT_LETTERS = 10_000
#: Kinds of letters (state and fingerprint) among which the oldest letter is looked for; it is left out where there are more.
LETTER_GROUPS = 1_000
#: How long one statement may take, and how long it may wait for somebody's lock.
STATEMENT_S, LOCK_S = 1.5, 0.3
#: How long a connection attempt may take.
CONNECT_S = 3.0

_Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Measure:
    """
    Args:
        name: For the log.
        query: One statement.
        read: From its rows to figures; a None in them is not told.
    """

    name: str
    query: str
    read: Callable[[_Rows], Mapping[str, Any]]


def open_measuring(settings: Settings) -> Connection:
    """
    A connection for measures: it only reads, and waits for nothing for long.

    Raises:
        psycopg.OperationalError: The database cannot be reached.
    """
    limits = {"statement_timeout_s": STATEMENT_S, "connect_timeout_s": CONNECT_S}
    connection = connect_with(settings.model_copy(update=limits))()
    connection.execute(
        "SELECT set_config('application_name', 'penstock exporter', false), set_config('lock_timeout', %s, false),"
        " set_config('default_transaction_read_only', 'on', false), set_config('jit', 'off', false),"
        # The statements follow indexes. A table that was never analyzed would be read and sorted whole, again and again.
        " set_config('enable_seqscan', 'off', false), set_config('enable_bitmapscan', 'off', false),"
        " set_config('enable_sort', 'off', false), set_config('enable_incremental_sort', 'off', false)",
        [f"{LOCK_S * 1000:.0f}ms"],
    )
    return connection


def cut_off(connection: Connection) -> None:
    """
    End a connection that another thread waits at, which then gets an error.

    A server that is frozen keeps the connection and never answers, and libpq waits for it without a limit.
    """
    with suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as copy:
        copy.shutdown(socket.SHUT_RDWR)


def take(connection: Connection, measure: Measure) -> Figures:
    """
    Ask one.

    Raises:
        psycopg.Error: It cannot be answered, or not in time.
    """
    figures = measure.read(connection.execute(measure.query.encode()).fetchall())
    known = {name: _known(value) for name, value in figures.items()}
    return {name: value for name, value in known.items() if value is not None and value != {}}


def _known(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {labels: float(number) for labels, number in value.items() if number is not None}
    return None if value is None else float(value)


def _named(*names: str) -> Callable[[_Rows], Mapping[str, Any]]:
    """Of one row, whose columns are metrics in this order."""
    return lambda rows: dict(zip(names, rows[0], strict=True))


def _labelled(*names: str) -> Callable[[_Rows], Mapping[str, Any]]:
    """Of rows that begin with the value of a label; their other columns are metrics in this order."""
    return lambda rows: {name: {row[0]: row[place] for row in rows} for place, name in enumerate(names, start=1)}


def _read_letters(rows: _Rows) -> Mapping[str, Any]:
    counted = {state: _about(exact, estimate) for state, exact, estimate in rows}
    return {"penstock_dead_letters": {"dead": 0, "held": 0} | counted}


def _about(exact: int, estimate: float | None) -> float:
    return exact if exact <= EXACT_LETTERS else max(exact, round(estimate or 0))


def _read_oldest_letters(rows: _Rows) -> Mapping[str, Any]:
    """One row a group, and one more than are looked at where there are more."""
    if len(rows) > LETTER_GROUPS:
        return {}
    oldest: dict[str, float] = {}
    for state, seconds in rows:
        oldest[state] = max(oldest.get(state, 0), seconds)
    return {"penstock_dead_letters_oldest_seconds": oldest}


def _read_sessions(rows: _Rows) -> Mapping[str, Any]:
    states: dict[str, int] = dict.fromkeys(("active", "idle", "idle in transaction"), 0)
    for state, number, *_ in rows:
        states[state] = states.get(state, 0) + number
    is_all_seen = "hidden" not in states
    return {
        "penstock_database_connections": states,
        "penstock_database_slow_queries": sum(row[2] for row in rows) if is_all_seen else None,
        "penstock_database_oldest_transaction_seconds": _largest(row[3] for row in rows) if is_all_seen else None,
    }


def _largest(numbers: Iterable[float | None]) -> float:
    return max((number for number in numbers if number is not None), default=0)


def _read_server(rows: _Rows) -> Mapping[str, Any]:
    ((commits, rollbacks, hit, read, deadlocks, limit),) = rows
    return {
        "penstock_database_transactions_total": {"commit": commits, "rollback": rollbacks},
        "penstock_database_blocks_total": {"cache": hit, "outside": read},
        "penstock_database_deadlocks_total": deadlocks,
        "penstock_database_connections_limit": limit,
    }


def _read_incomplete(rows: _Rows) -> Mapping[str, Any]:
    return {"penstock_incomplete_records": {(type, state): number for type, state, number in rows}}


_SERVER = """
    SELECT xact_commit, xact_rollback, blks_hit, blks_read, deadlocks,
           current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
    FROM pg_stat_database WHERE datname = current_database()
"""
# Of a session that this user may not look into, state and kind are NULL.
_SESSIONS = """
    SELECT coalesce(state, 'hidden'), count(*),
           count(*) FILTER (WHERE state = 'active' AND clock_timestamp() - query_start > interval '1 second'),
           max(extract(epoch FROM clock_timestamp() - xact_start))
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
      AND coalesce(backend_type, 'client backend') = 'client backend'
    GROUP BY 1
"""
# Who waits for the end of another's transaction waits for a lock that belongs to no database: so by session.
_LOCK_WAITS = """
    SELECT count(DISTINCT l.pid) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE NOT l.granted AND a.datname = current_database()
"""
_LEADER = f"""
    SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
                   WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
                     AND l.classid = {LEADER_LOCK[0]} AND l.objid = {LEADER_LOCK[1]})::int
"""
_OVERDUE = """
    SELECT name, greatest(0, extract(epoch FROM clock_timestamp() - next_run))
    FROM penstock.schedule WHERE is_enabled AND next_run IS NOT NULL
"""
# By the index on (job, started_at), from one job to the next and there from the last run backwards: not all rows of many days.
_RUNS = """
    WITH RECURSIVE jobs AS (
        (SELECT job FROM penstock.maintenance_runs ORDER BY job LIMIT 1)
        UNION ALL
        SELECT next.job FROM jobs, LATERAL (
            SELECT r.job FROM penstock.maintenance_runs r WHERE r.job > jobs.job ORDER BY r.job LIMIT 1) AS next
    )
    SELECT job, extract(epoch FROM began.started_at), extract(epoch FROM good.started_at), ended.seconds, ended.failed
    FROM jobs
    LEFT JOIN LATERAL (SELECT started_at FROM penstock.maintenance_runs r WHERE r.job = jobs.job AND NOT is_dry_run
                       ORDER BY started_at DESC LIMIT 1) AS began ON true
    LEFT JOIN LATERAL (SELECT started_at FROM penstock.maintenance_runs r WHERE r.job = jobs.job AND NOT is_dry_run
                       AND state = 'done' ORDER BY started_at DESC LIMIT 1) AS good ON true
    LEFT JOIN LATERAL (SELECT seconds, (state IN ('failed', 'died'))::int AS failed FROM penstock.maintenance_runs r
                       WHERE r.job = jobs.job AND NOT is_dry_run AND state <> 'running'
                       ORDER BY started_at DESC LIMIT 1) AS ended ON true
"""
_AUDIT = """
    SELECT (counts -> 'gaps' ->> 'missing')::bigint, (counts ->> 'epochs_missing')::bigint
    FROM penstock.maintenance_runs WHERE job = 'audit' AND state = 'done' AND NOT is_dry_run
    ORDER BY started_at DESC LIMIT 1
"""
_PRODUCERS = "SELECT count(*) FROM penstock.producers WHERE last_seen > clock_timestamp() - interval '5 minutes'"
_INCOMPLETE = """
    SELECT type, CASE WHEN claimed_until > clock_timestamp() THEN 'claimed' ELSE 'unclaimed' END, count(*)
    FROM penstock.recoveries WHERE ended_at IS NULL AND outcome IS NULL GROUP BY 1, 2
"""
# The estimate is from the last ANALYZE, which autovacuum does whenever a tenth of the letters is new.
_LETTERS = f"""
    SELECT state, counted.exact,
           (SELECT c.reltuples * s.freq FROM pg_class c, pg_stats p,
                   unnest(p.most_common_vals::text::text[], p.most_common_freqs) AS s (value, freq)
            WHERE c.oid = 'penstock.dead_letters'::regclass AND p.schemaname = 'penstock'
              AND p.tablename = 'dead_letters' AND p.attname = 'state' AND s.value = state)
    FROM unnest(ARRAY['dead', 'held']) AS state,
         LATERAL (SELECT count(*) AS exact FROM (SELECT FROM penstock.dead_letters d
                                                 WHERE d.state = state.state LIMIT {EXACT_LETTERS + 1}) AS few) AS counted
"""
# From one (state, fingerprint) to the next by one index, and of each the oldest by the other: no letter else is looked at.
_OLDEST_LETTERS = f"""
    WITH RECURSIVE groups AS (
        (SELECT state, fingerprint FROM penstock.dead_letters ORDER BY state, fingerprint LIMIT 1)
        UNION ALL
        SELECT next.state, next.fingerprint FROM groups, LATERAL (
            SELECT d.state, d.fingerprint FROM penstock.dead_letters d
            WHERE (d.state, d.fingerprint) > (groups.state, groups.fingerprint) ORDER BY d.state, d.fingerprint LIMIT 1) AS next
    )
    SELECT few.state, extract(epoch FROM clock_timestamp() - oldest.at)
    FROM (SELECT * FROM groups LIMIT {LETTER_GROUPS + 1}) AS few, LATERAL (
        SELECT d.at FROM penstock.dead_letters d WHERE d.fingerprint = few.fingerprint AND d.state = few.state
        ORDER BY d.at LIMIT 1) AS oldest
"""
_TABLES = """
    SELECT table_name, bytes FROM penstock.table_sizes
    WHERE at = (SELECT max(at) FROM penstock.table_sizes WHERE table_name = 'database') AND table_name <> 'database'
"""

#: What is seen first is what is needed first, should the time not be enough for all.
MEASURES = (
    Measure("server", _SERVER, _read_server),
    Measure("sessions", _SESSIONS, _read_sessions),
    Measure("lock waits", _LOCK_WAITS, _named("penstock_database_lock_waits")),
    Measure("leader", _LEADER, _named("penstock_beat_leader")),
    Measure("overdue", _OVERDUE, _labelled("penstock_job_overdue_seconds")),
    Measure(
        "runs",
        _RUNS,
        _labelled(
            "penstock_job_last_start_timestamp_seconds",
            "penstock_job_last_success_timestamp_seconds",
            "penstock_job_last_seconds",
            "penstock_job_failed",
        ),
    ),
    Measure(
        "audit",
        _AUDIT,
        lambda rows: _named("penstock_ledger_missing_events", "penstock_ledger_missing_producers")(rows) if rows else {},
    ),
    Measure("letters", _LETTERS, _read_letters),
    Measure("oldest letters", _OLDEST_LETTERS, _read_oldest_letters),
    Measure("producers", _PRODUCERS, _named("penstock_producers_seen")),
    Measure("incomplete records", _INCOMPLETE, _read_incomplete),
    Measure("tables", _TABLES, _labelled("penstock_table_bytes")),
    Measure("size", "SELECT pg_database_size(current_database())", _named("penstock_database_bytes")),
)
