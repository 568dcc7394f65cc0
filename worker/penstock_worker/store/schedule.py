"""
The table `penstock.schedule`, and the lock that says which beat leads.

| column                        | what it holds                                                              | written by    |
|-------------------------------|----------------------------------------------------------------------------|---------------|
| `name`                        | the row's name                                                             | beat, people  |
| `task`, `arguments`, `queue`  | what is sent: an object of keyword arguments, or an array; where, or NULL  | beat, people  |
| `every_s` or `cron`           | when, cron in `time_zone`                                                  | beat, people  |
| `is_enabled`                  | whether it is sent                                                         | people        |
| `seed`                        | what the settings said when beat wrote the row; NULL in rows of people     | beat          |
| `next_run`, `planned_by`      | when it is due, and the timing that this follows from                      | beat          |
| `last_run`, `last_result`     | when it was sent, and what came of it                                      | beat, workers |
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg import Cursor
from psycopg.rows import class_row
from psycopg.types.json import Jsonb, set_json_loads

from penstock_worker.store.connection import Connection

__all__ = [
    "LEADER_LOCK",
    "BeatSeen",
    "Default",
    "Look",
    "Row",
    "add_missing",
    "claim",
    "clock",
    "find_row",
    "follow",
    "give_back",
    "list_beats",
    "list_rows",
    "look",
    "name_beat",
    "note_result",
    "plan",
    "remove",
    "save",
    "set_enabled",
]

#: The advisory lock of the beat that leads; any numbers that nobody else uses.
LEADER_LOCK = (0x70656E62, 0)
#: What beats are called in `pg_stat_activity`.
_BEAT = "penstock beat"
#: PostgreSQL cuts longer ones off.
_NAME_BYTES = 63

#: Whether this very session has the lock. Asked of the server, for a pooler in between could have given us another session.
_LEADS = (
    "EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid()"
    f" AND classid = {LEADER_LOCK[0]} AND objid = {LEADER_LOCK[1]} AND objsubid = 2)"
)
_COLUMNS = (
    "name, task, every_s, cron, time_zone, arguments, queue, is_enabled, seed, last_run, next_run, planned_by, last_result"
)
#: The part of a row that a seed holds.
_SEEDED = ("task", "every_s", "cron", "time_zone", "arguments", "queue")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the schedule; `arguments` are None where they are JSON that Python cannot read."""

    name: str
    task: str
    every_s: float | None = None
    cron: str | None = None
    time_zone: str = "UTC"
    arguments: Any = field(default_factory=dict)
    queue: str | None = None
    is_enabled: bool = True
    seed: Mapping[str, Any] | None = None
    last_run: datetime | None = None
    next_run: datetime | None = None
    planned_by: str | None = None
    last_result: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, default: Default) -> Row:
        """The row of a job that nobody edited."""
        return cls(default.name, default.task, default.every_s, default.cron, arguments={}, seed=default.seed)

    @property
    def is_own(self) -> bool:
        """Whether a person made it."""
        return self.seed is None

    @property
    def is_edited(self) -> bool:
        """Whether a person changed what the settings said."""
        return self.seed is not None and self.seed != {name: getattr(self, name) for name in _SEEDED}


@dataclass(frozen=True, slots=True)
class Default:
    """What the settings say of a job."""

    name: str
    task: str
    every_s: float | None
    cron: str | None

    @property
    def seed(self) -> dict[str, Any]:
        """The row that beat writes of it."""
        timing = {"every_s": self.every_s, "cron": self.cron, "time_zone": "UTC"}
        return {"task": self.task, **timing, "arguments": {}, "queue": None}


@dataclass(frozen=True, slots=True)
class Look:
    """What a tick sees; without the lead it sees no rows."""

    leads: bool
    now: datetime
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class BeatSeen:
    """A beat that is connected; `who` is its host and process."""

    who: str
    since: datetime
    leads: bool


def name_beat(connection: Connection, who: str, silence_s: float) -> None:
    """
    Make a connection a beat's: `list_beats` shows it, and the server ends it once nothing was heard of it for `silence_s`.

    A frozen process keeps its connection, and with it the lock: only the server can take it from there.
    """
    name = f"{_BEAT} {who}".encode()[:_NAME_BYTES].decode(errors="ignore")
    connection.execute(
        "SELECT set_config('application_name', %s, false), set_config('idle_session_timeout', %s, false),"
        " set_config('statement_timeout', %s, false)",
        [name, f"{int(silence_s * 1000)}ms", f"{int(silence_s * 1000)}ms"],
    )


def look(connection: Connection, now: datetime | None = None) -> Look:
    """
    Take the lead, or see that it is still ours or somebody else's, and read the rows.

    Args:
        connection: In autocommit; the lock lives and dies with it.
        now: What time it is; the server's otherwise, so that beats whose clocks differ agree.
    """
    query = (
        f"WITH lead AS MATERIALIZED (SELECT CASE WHEN {_LEADS} THEN true"
        f" ELSE pg_try_advisory_lock({LEADER_LOCK[0]}, {LEADER_LOCK[1]}) END AS leads)"
        f" SELECT leads, coalesce(%s, clock_timestamp()), {_COLUMNS}"
        " FROM lead LEFT JOIN penstock.schedule ON leads ORDER BY name"
    )
    with _reading(connection) as cursor:
        found = cursor.execute(query.encode(), [now]).fetchall()
    leads, at, *_ = found[0]
    rows = [Row(*row) for _, _, *row in found if row[0] is not None]  # type: ignore[arg-type]  # as the columns are
    return Look(leads, at, rows)  # type: ignore[arg-type]  # boolean and timestamptz


def claim(connection: Connection, row: Row, now: datetime, next_run: datetime, planned_by: str) -> bool:
    """
    Make a due run ours by setting the row's next one; whoever comes second, with whatever lock, finds it set.

    A row that somebody else's transaction has locked is left for the next tick: one person's open transaction must not hold
    up the other rows.
    """
    return _change(
        connection,
        row,
        "last_run = %s, next_run = %s, planned_by = %s, last_result = %s",
        [now, next_run, planned_by, Jsonb({"state": "sent"})],
        condition="is_enabled",
    )


def plan(
    connection: Connection, row: Row, next_run: datetime | None, planned_by: str | None, result: Mapping[str, Any] | None
) -> bool:
    """Set when a row is due, None for never, and its last result."""
    parameters = [next_run, planned_by, None if result is None else Jsonb(result)]
    return _change(connection, row, "next_run = %s, planned_by = %s, last_result = %s", parameters)


def _change(connection: Connection, row: Row, assignments: str, parameters: list[Any], condition: str = "true") -> bool:
    query = (
        f"UPDATE penstock.schedule SET {assignments} WHERE name = (SELECT name FROM penstock.schedule"
        f" WHERE name = %s AND next_run IS NOT DISTINCT FROM %s AND {condition} AND {_LEADS} FOR UPDATE SKIP LOCKED)"
    )
    return connection.execute(query.encode(), [*parameters, row.name, row.next_run]).rowcount == 1


def give_back(connection: Connection, row: Row, claimed: datetime, why: str) -> None:
    """
    Undo a claim whose run could not be sent: it is due again, for whoever leads by now.

    Args:
        connection: Any; the lead may be lost by now.
        row: As it was before the claim.
        claimed: The `next_run` that the claim set; where it is another one by now, others have taken care of the row.
        why: One line.
    """
    connection.execute(
        "UPDATE penstock.schedule SET last_run = %s, next_run = %s, last_result = %s WHERE name = %s AND next_run = %s",
        [row.last_run, row.next_run, Jsonb({"state": "not_sent", "error": why}), row.name, claimed],
    )


def note_result(connection: Connection, name: str, result: Mapping[str, Any]) -> None:
    """Write what came of a row's last run; nothing where the row is gone."""
    connection.execute("UPDATE penstock.schedule SET last_result = %s WHERE name = %s", [Jsonb(result), name])


def add_missing(connection: Connection, defaults: Iterable[Default]) -> None:
    """Add the jobs that have no row. Safe to run twice, also at once."""
    for default in defaults:
        connection.execute(
            "INSERT INTO penstock.schedule (name, task, every_s, cron, seed) VALUES (%s, %s, %s, %s, %s)"
            " ON CONFLICT DO NOTHING",
            [default.name, default.task, default.every_s, default.cron, Jsonb(default.seed)],
        )


def follow(connection: Connection, row: Row, default: Default) -> None:
    """Let a row that nobody edited follow the settings; nothing where somebody has just done so."""
    said = ", ".join(f"'{name}', {name}" for name in _SEEDED)
    query = (
        "UPDATE penstock.schedule SET task = %s, every_s = %s, cron = %s, seed = %s WHERE name = (SELECT name"
        f" FROM penstock.schedule WHERE name = %s AND seed = jsonb_build_object({said}) AND {_LEADS} FOR UPDATE SKIP LOCKED)"
    )
    connection.execute(query.encode(), [default.task, default.every_s, default.cron, Jsonb(default.seed), row.name])


def list_rows(connection: Connection) -> list[Row]:
    """All rows, by name."""
    with _reading(connection) as cursor:
        found = cursor.execute(f"SELECT {_COLUMNS} FROM penstock.schedule ORDER BY name").fetchall()
    return [Row(*row) for row in found]  # type: ignore[arg-type]  # as the columns are


def find_row(connection: Connection, name: str) -> Row | None:
    """A row by its name."""
    with _reading(connection) as cursor:
        found = cursor.execute(f"SELECT {_COLUMNS} FROM penstock.schedule WHERE name = %s", [name]).fetchone()
    return None if found is None else Row(*found)  # type: ignore[arg-type]  # as the columns are


@contextmanager
def _reading(connection: Connection) -> Iterator[Cursor[tuple[object, ...]]]:
    """Rows as they are, also one that would raise: it must not stop the others."""
    with connection.cursor() as cursor:
        set_json_loads(_loads, cursor)
        yield cursor


def _loads(text: str | bytes) -> Any:
    """PostgreSQL takes numbers of 5,000 digits and a thousand brackets in each other, and Python does not."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def clock(connection: Connection) -> datetime:
    """The server's time, by which beats go."""
    (now,) = connection.execute("SELECT clock_timestamp()").fetchall()[0]
    assert isinstance(now, datetime)
    return now


def list_beats(connection: Connection) -> list[BeatSeen]:
    """The beats that are connected to this database, the leader first; those of other database users show no name."""
    query = (
        "SELECT coalesce(nullif(substr(application_name, %s), ''), 'process ' || pid) AS who, backend_start AS since,"
        " leads FROM (SELECT a.*, EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.pid = a.pid"
        f" AND l.database = a.datid AND l.classid = {LEADER_LOCK[0]} AND l.objid = {LEADER_LOCK[1]} AND objsubid = 2) AS leads"
        " FROM pg_stat_activity a WHERE datname = current_database()) AS seen"
        " WHERE leads OR starts_with(application_name, %s) ORDER BY leads DESC, who"
    )
    with connection.cursor(row_factory=class_row(BeatSeen)) as cursor:
        return cursor.execute(query.encode(), [len(_BEAT) + 2, f"{_BEAT} "]).fetchall()


def save(connection: Connection, row: Row) -> None:
    """Write what a person decides about a row: task, timing, arguments, queue, seed; a new one is enabled."""
    connection.execute(
        "INSERT INTO penstock.schedule (name, task, every_s, cron, time_zone, arguments, queue, seed)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (name) DO UPDATE SET task = excluded.task, every_s = excluded.every_s, cron = excluded.cron,"
        " time_zone = excluded.time_zone, arguments = excluded.arguments, queue = excluded.queue, seed = excluded.seed",
        [
            row.name,
            row.task,
            row.every_s,
            row.cron,
            row.time_zone,
            Jsonb(row.arguments),
            row.queue,
            None if row.seed is None else Jsonb(row.seed),
        ],
    )


def set_enabled(connection: Connection, name: str, *, is_enabled: bool) -> None:
    """Let a row be sent, or not."""
    connection.execute("UPDATE penstock.schedule SET is_enabled = %s WHERE name = %s", [is_enabled, name])


def remove(connection: Connection, name: str) -> None:
    """Delete a row."""
    connection.execute("DELETE FROM penstock.schedule WHERE name = %s", [name])
