"""
What an event costs when the table has grown: new keys into tables of 0.1, 1 and 10 million rows.

Each size is a database of its own on the same server, filled by copying what a worker stored, under other random keys; then its
indexes are built and it is vacuumed, so that no autovacuum falls into a round. Rounds take the sizes in turn. In each the same
new events, with keys that lie anywhere among those that are there, go into each database; so a table grows a little from round
to round. Their sessions are not there, and the worker makes placeholders. The new rows are compared with what was sent.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import lru_cache
from typing import Any

import psycopg

from bench.backlog import Backlog
from bench.figures import alternate, median, rates, spread
from bench.race import store
from bench.records import TASK_MD5_SQL, build_records, checksum
from bench.site import RoundVoid, Site, describe
from bench.table import OWN_TABLES, Table
from bench.workers import timed_drain
from bench.workload import build_workload, encode
from penstock_migrations.run import upgrade
from penstock_schemas.records.translation import TranslationSession, TranslationTask
from penstock_schemas.registry import load_registry

__all__ = ["drain_new", "multiply"]

#: New events of one measurement.
EVENTS = 50_000
SIZES = (100_000, 1_000_000, 10_000_000)
#: Rows that a worker stores, and that are copied.
_SEED_ROWS = 20_000
#: Copies in one statement, and how many statements run at once.
_STEP, _COPIERS = 25, 2
#: Enough to sort the keys of ten million rows without files.
_INDEX_MEMORY_MB = 1_024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="rows in the table before")


def measure(place: Site, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds an event with the largest table, and how many times those with the smallest that is."""
    sizes = sorted(arguments.sizes)
    with closing(Backlog(place)) as backlog, ExitStack() as stack:
        seed_rows = min(_SEED_ROWS, sizes[0])
        with place.phases.of("making events"):
            seed = build_workload(seed_rows)
        store(place, backlog, [*seed.sessions, *seed.tasks])
        places = {size: stack.enter_context(_grown(place, size, seed_rows)) for size in sizes}
        before = {size: _about(places[size]) for size in sizes}
        # Rounds take new keys in turn; the first one, which is not counted, connects and warms up.
        seeds = {size: iter(range(1, arguments.rounds + 2)) for size in sizes}

        def turn(size: int) -> Callable[[], float]:
            return lambda: drain_new(places[size], backlog, arguments.events, next(seeds[size]))

        turns = {str(size): turn(size) for size in sizes}
        alternate(turns, 1)
        seconds = alternate(turns, arguments.rounds)
        after = {size: _about(places[size]) for size in sizes}
    return _result(place, arguments, seconds, before, after)


def _result(
    place: Site,
    arguments: argparse.Namespace,
    seconds: dict[str, list[float]],
    before: dict[int, dict[str, Any]],
    after: dict[int, dict[str, Any]],
) -> dict[str, Any]:
    events, sizes = arguments.events, list(before)
    first, last = seconds[str(sizes[0])], seconds[str(sizes[-1])]
    ratios = [large / small for small, large in zip(first, last, strict=True)]
    return {
        "name": "growth",
        "broker": place.broker,
        "events": events,
        "rounds": arguments.rounds,
        "events_per_s": round(median(rates(events, last))),
        "ratio": round(median(last) / median(first), 3),
        "spread": {"events_per_s": spread(rates(events, last)), "ratio": spread(ratios, 3)},
        "sizes": [
            {
                **before[size],
                "rows_after": after[size]["rows"],
                "us_per_event": round(median(seconds[str(size)]) / events * 1e6, 2),
                "events_per_s": round(median(rates(events, seconds[str(size)]))),
                "spread": spread(rates(events, seconds[str(size)])),
            }
            for size in sizes
        ],
        "rows": after[sizes[-1]]["rows"],
        "bytes_per_row": after[sizes[-1]]["bytes_per_row"],
        "indexes": Table(place, "translation.tasks", TASK_MD5_SQL).indexes(),
        "conflict_ratio": 0.0,
        **describe(place),
    }


def _grown(place: Site, size: int, seed_rows: int) -> AbstractContextManager[Site]:
    """A database with so many tasks; a context that gives its site."""
    name = f"growth_{size}"
    with psycopg.connect(place.postgres.url_of("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    upgrade(place.postgres.url_of(name), load_registry(()))
    with place.other_database(name) as other:
        for table in ("translation.sessions", "translation.tasks"):
            Table(other, table, "").copy(Table(place, table, "").export())
        multiply(other, -(-size // seed_rows) - 1)
    return place.other_database(name)


def multiply(place: Site, copies: int) -> None:
    """Add copies of all sessions and tasks. Indexes and the foreign key are built after that, which takes half the time."""
    connection = place.connection
    connection.execute(f"SET maintenance_work_mem = '{_INDEX_MEMORY_MB}MB'")
    connection.execute("CREATE TABLE public.seed_sessions AS SELECT * FROM translation.sessions")
    connection.execute("CREATE TABLE public.seed_tasks AS SELECT * FROM translation.tasks")
    with _without_indexes(place, "translation.tasks"), place.phases.of("copying rows"), ThreadPoolExecutor(_COPIERS) as pool:
        numbers = range(1, copies + 1)
        for ended in [pool.submit(_insert_copies, place, numbers[first::_COPIERS]) for first in range(_COPIERS)]:
            ended.result()
    with place.phases.of("VACUUM and CHECKPOINT"):
        connection.execute("DROP TABLE public.seed_sessions, public.seed_tasks")
        connection.execute("VACUUM ANALYZE translation.tasks")
        connection.execute("VACUUM ANALYZE translation.sessions")
        connection.execute("CHECKPOINT")


def _insert_copies(place: Site, numbers: Sequence[int]) -> None:
    """The copies of these numbers, over a connection of their own; a session's id in another copy is as random as its own."""
    with psycopg.connect(place.database_url, autocommit=True) as connection:
        for first in range(0, len(numbers), _STEP):
            connection.execute("DROP TABLE IF EXISTS pg_temp.renamed")
            connection.execute(
                "CREATE TEMP TABLE renamed AS SELECT session_id AS was, md5(session_id || n)::uuid::text AS session_id"
                " FROM public.seed_sessions, unnest(%s::int[]) AS n",
                [list(numbers[first : first + _STEP])],
            )
            connection.execute("ANALYZE renamed")
            _insert(connection, "translation.sessions", {"session_id": "r.session_id"})
            task_id = "r.session_id || substr(s.task_id, 37)"
            _insert(connection, "translation.tasks", {"session_id": "r.session_id", "task_id": task_id})


@contextmanager
def _without_indexes(place: Site, table: str) -> Iterator[None]:
    """Drop the table's constraints and indexes, and make them again at the end."""
    connection = place.connection
    keys = connection.execute(
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE conrelid = %s::regclass AND contype IN ('p', 'f') ORDER BY contype DESC",
        [table],
    ).fetchall()
    indexes = connection.execute(
        "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index"
        " WHERE indrelid = %s::regclass AND NOT indisprimary",
        [table],
    ).fetchall()
    for name, _ in reversed(keys):
        connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    for name, _ in indexes:
        connection.execute(f"DROP INDEX {name}")
    yield
    with place.phases.of("building indexes"):
        for _, definition in indexes:
            connection.execute(definition)
        for name, definition in keys:
            connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")


def _insert(connection: psycopg.Connection[Any], table: str, changed: dict[str, str]) -> None:
    names = [
        row[0]
        for row in connection.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped", [table]
        )
    ]
    values = ", ".join(changed.get(name, f's."{name}"') for name in names)
    seed = f"public.seed_{table.rpartition('.')[2]}"
    columns = ", ".join(f'"{name}"' for name in names)
    source = f"{seed} AS s JOIN renamed AS r ON r.was = s.session_id"
    connection.execute(f"INSERT INTO {table} ({columns}) SELECT {values} FROM {source}")


@lru_cache(maxsize=1)
def _records(events: int, seed: int) -> tuple[list[TranslationSession], list[TranslationTask]]:
    """The databases take the same ones in turn."""
    return build_records(events, seed)


def drain_new(place: Site, backlog: Backlog, events: int, seed: int) -> float:
    """Seconds for tasks with keys of this seed, which are compared with what was sent."""
    with place.phases.of("making events"):
        sessions, tasks = _records(events, seed)
    place.connection.execute(f"TRUNCATE {OWN_TABLES}")
    backlog.put(encode(f"bench-{seed}", tasks))
    place.connection.execute("CHECKPOINT")
    seconds = timed_drain(place, backlog, events)
    ours = [[session.session_id for session in sessions]]
    if Table(place, "translation.tasks", TASK_MD5_SQL).sent_digest("session_id = ANY(%s)", ours) != checksum(tasks):
        raise RoundVoid(f"what was added to {place.database} is not what was sent")
    return seconds


def _about(place: Site) -> dict[str, Any]:
    sizes = "SELECT pg_table_size('translation.tasks'), pg_indexes_size('translation.tasks')"
    heap, indexes = place.connection.execute(sizes).fetchone() or (0, 0)
    about = Table(place, "translation.tasks", TASK_MD5_SQL).about()
    return {
        "rows": about["rows"],
        "bytes_per_row": about["bytes_per_row"],
        "table_mb": round(heap / 1e6),
        "indexes_mb": round(indexes / 1e6),
    }
