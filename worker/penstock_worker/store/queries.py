"""What the reading commands ask: rows, ledger, producers, dead letters. Nothing here writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import class_row, dict_row

from penstock_producers.transports.tls_errors import say_tls_error
from penstock_schemas import RecordType, Registry
from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import Settings
from penstock_worker.store.connection import Connection, connect_with
from penstock_worker.store.ledger import folded
from penstock_worker.store.letter_filter import FINGERPRINT_MARK, LetterFilter

__all__ = [
    "LetterGroup",
    "ProducerSeen",
    "RunProgress",
    "count_letters",
    "count_outcomes",
    "count_rows",
    "explained",
    "list_groups",
    "list_letters",
    "list_producers",
    "open_reader",
    "run_progress",
    "visible_rows",
]

#: Producers that `list_producers` gives, the last seen first.
PRODUCERS_SHOWN = 100


@dataclass(frozen=True, slots=True)
class ProducerSeen:
    """One start of a producer: `high_water` is how many events it has numbered, as far as is known here."""

    producer: str
    epoch: UUID
    high_water: int
    is_closed: bool
    first_seen: datetime
    last_seen: datetime


@dataclass(frozen=True, slots=True)
class LetterGroup:
    """Dead letters that are equal: the same state, type, reason and producer."""

    fingerprint: str
    #: The fingerprint's short form, for people.
    mark: str
    state: str
    reason: str
    type: str | None
    producer: str | None
    letters: int
    first_at: datetime
    last_at: datetime
    detail: str


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How many events of some producers have ended, and how."""

    stored: int
    dead_lettered: int
    ended: int


@contextmanager
def open_reader(settings: Settings) -> Iterator[Connection]:
    """
    A connection that can only read.

    Raises:
        ConfigurationError: See `explained`.
    """
    with explained(), connect_with(settings)() as connection:
        connection.execute("SET default_transaction_read_only = on")
        yield connection


@contextmanager
def explained() -> Iterator[None]:
    """
    Say in one line what a person can change.

    Raises:
        ConfigurationError: The database cannot be reached or is not migrated, also when a statement inside finds that out.
    """
    try:
        yield
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedColumn) as exc:
        raise ConfigurationError(f"the database is not migrated ({_first_line(exc)}): run `penstock migrate up`") from exc
    except psycopg.errors.InsufficientPrivilege as exc:
        raise ConfigurationError(f"the database's user may not do this: {_first_line(exc)}") from exc
    except psycopg.OperationalError as exc:
        reason = say_tls_error(exc, "PENSTOCK_DATABASE") or _first_line(exc)
        raise ConfigurationError(f"the database cannot be used: {reason}; check PENSTOCK_DATABASE_URL") from exc


def visible_rows(record: RecordType, registry: Registry) -> sql.Composed:
    """
    The FROM and WHERE that give the rows of a type which exist for readers, as `r`.

    Hidden are placeholders of parents that did not come yet, tombstones, and children that fell with their parent.
    """
    parent = record.declaration.parent
    table = sql.Identifier(*record.declaration.table.split("."))
    if parent is None:
        return sql.SQL("FROM {} r WHERE r._version IS NOT NULL").format(table)
    parent_type = registry[parent.type]
    return sql.SQL(
        "FROM {table} r WHERE r._version IS NOT NULL AND NOT EXISTS"
        " (SELECT FROM {parent} p WHERE p.{key} = r.{field} AND p._deleted_version >= r._oldest)"
    ).format(
        table=table,
        parent=sql.Identifier(*parent_type.declaration.table.split(".")),
        key=sql.Identifier(parent_type.key[0]),
        field=sql.Identifier(parent.field),
    )


def count_rows(connection: Connection, registry: Registry) -> dict[str, int]:
    """Visible rows per type. It counts them one by one: a second for some million rows."""
    return {
        name: _number(connection, sql.SQL("SELECT count(*) {}").format(visible_rows(record, registry)))
        for name, record in registry.items()
    }


def count_outcomes(connection: Connection) -> dict[str, int]:
    """Events per outcome; one that was told several times counts once, see `penstock_schemas.answer.PRECEDENCE`."""
    query = sql.SQL(
        "SELECT outcome, sum(upper(part) - lower(part))::bigint"
        " FROM ({folded}) AS folded, unnest(seqs) AS part GROUP BY outcome ORDER BY outcome"
    )
    return dict(connection.execute(query.format(folded=folded())).fetchall())  # type: ignore[arg-type]  # text and bigint


def run_progress(connection: Connection, producers: Sequence[str]) -> RunProgress:
    """What became of the events of these producers. `stored` are those whose effect is in a row, superseded ones included."""
    theirs = sql.SQL("(SELECT l.* FROM penstock.ledger l JOIN penstock.producers USING (epoch) WHERE producer = ANY (%s)) AS l")
    query = sql.SQL("""
        SELECT coalesce(sum(events) FILTER (WHERE outcome IN ('stored', 'superseded')), 0)::bigint AS stored,
               coalesce(sum(events) FILTER (WHERE outcome IN ('dead', 'held')), 0)::bigint AS dead_lettered,
               coalesce(sum(events), 0)::bigint AS ended
        FROM ({folded}) AS folded,
             LATERAL (SELECT sum(upper(part) - lower(part)) AS events FROM unnest(seqs) AS part) AS counted
    """)
    with connection.cursor(row_factory=class_row(RunProgress)) as cursor:
        progress = cursor.execute(query.format(folded=folded(theirs)), [list(producers)]).fetchone()
    assert progress is not None  # an aggregate always has a row
    return progress


def list_producers(connection: Connection, limit: int = PRODUCERS_SHOWN) -> list[ProducerSeen]:
    """The producers that were heard of, the last seen first."""
    with connection.cursor(row_factory=class_row(ProducerSeen)) as cursor:
        return cursor.execute(
            "SELECT producer, epoch, high_water, is_closed, first_seen, last_seen FROM penstock.producers"
            " ORDER BY last_seen DESC, epoch LIMIT %s",
            [limit],
        ).fetchall()


def count_letters(connection: Connection) -> dict[str, int]:
    """Dead letters per state."""
    rows = connection.execute("SELECT state, count(*) FROM penstock.dead_letters GROUP BY state")
    return {"dead": 0, "held": 0} | dict(rows.fetchall())  # type: ignore[arg-type]  # text and bigint


def list_groups(connection: Connection, meant: LetterFilter, limit: int) -> list[LetterGroup]:
    """Dead letters by fingerprint, the largest groups first; `detail` is the last one's."""
    # One detail a group, fetched afterwards: aggregated, the server would keep those of a million letters in memory.
    query = sql.SQL(
        "SELECT g.*, last.detail FROM ("
        "SELECT fingerprint, {mark} AS mark, state, min(reason) AS reason, min(type) AS type, min(producer) AS producer,"
        " count(*) AS letters, min(at) AS first_at, max(at) AS last_at"
        " FROM penstock.dead_letters WHERE {condition} GROUP BY fingerprint, state"
        " ORDER BY letters DESC, fingerprint, state LIMIT {limit}) AS g"
        " CROSS JOIN LATERAL (SELECT l.detail FROM penstock.dead_letters l"
        " WHERE {condition} AND l.fingerprint = g.fingerprint AND l.at = g.last_at AND l.state = g.state LIMIT 1) AS last"
        " ORDER BY letters DESC, fingerprint, state"
    ).format(mark=FINGERPRINT_MARK, condition=meant.condition, limit=limit)
    with connection.cursor(row_factory=class_row(LetterGroup)) as cursor:
        return cursor.execute(query).fetchall()


def list_letters(connection: Connection, meant: LetterFilter, limit: int) -> list[dict[str, Any]]:
    """Dead letters, the newest first, without their payloads but with their size."""
    query = sql.SQL(
        "SELECT id, state, reason, detail, sqlstate, constraint_name, column_name, fingerprint, type, op, version,"
        " event_id, producer, epoch, seq, events, octet_length(payload) AS payload_bytes, at FROM penstock.dead_letters"
        " WHERE {} ORDER BY at DESC, id LIMIT {}"
    ).format(meant.condition, limit)
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query).fetchall()


def _number(connection: Connection, query: sql.Composed) -> int:
    row = connection.execute(query).fetchone()
    assert row is not None  # an aggregate always has a row
    return int(str(row[0]))


def _first_line(error: psycopg.Error) -> str:
    return (str(error).splitlines() or ["no answer"])[0]
