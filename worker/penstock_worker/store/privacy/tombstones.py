"""
Writing over rows: a tombstone at the fence where a row can be one, and nothing where records are only appended.

It is the upsert that merges the tombstone, as if it were an event: what is newer than the fence stays, and twice is once. A
page of rows is one short transaction, so that nobody waits long for its locks; a page that finds a lock taken is tried again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import cast

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from penstock_schemas.record import RecordType
from penstock_schemas.registry import Registry
from penstock_worker.errors import DatabaseAway
from penstock_worker.store.connection import Connection
from penstock_worker.store.legal_holds import keep_holds, on_hold
from penstock_worker.store.privacy.children import note_erased
from penstock_worker.store.privacy.erased import ERASED
from penstock_worker.store.privacy.kept import keys_as, table_of
from penstock_worker.store.upsert import UpsertPlan

__all__ = ["Eraser", "Key", "above_fence", "erased_already"]

#: The texts of a row's key.
Key = tuple[str, ...]

#: Rows of one transaction: at first, and at least; seconds that it should take at most, for a batch with one of them waits.
PAGE_ROWS, LEAST_ROWS = 100, 10
PAGE_S = 0.03
#: Keys that are fetched at once.
FETCH_ROWS = 2_000
#: Milliseconds for which a page waits for a lock while it holds others.
LOCK_TIMEOUT_MS = 50
#: Tries of a page. The pauses between them grow to half a second: with these, some 25 seconds.
MAX_TRIES = 60

Tell = Callable[[int], None]


def _tell_nobody(_rows: int) -> None:
    pass


@dataclass
class Eraser:
    """
    Erases rows over one connection.

    Args:
        connection: In autocommit, without a limit of its statements' time.
        registry: Of the record types.
        tell: Told how many rows more are done.
    """

    connection: Connection
    registry: Registry
    tell: Tell = _tell_nobody
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.monotonic
    _plans: dict[str, UpsertPlan] = field(default_factory=dict)

    def erase(self, record: RecordType, condition: sql.Composable, version: int) -> int:
        """
        Erase the rows `r` of a type for which a condition holds, but those on hold; how many.

        The condition is looked at once more where a row is written over: it may have changed meanwhile.
        """
        found = sql.SQL("({}) AND NOT {}").format(condition, on_hold(self.registry, record))
        keys = sql.SQL(", ").join(sql.SQL("r.{}::text").format(sql.Identifier(name)) for name in record.key)
        query = sql.SQL("SELECT {} FROM {} AS r WHERE {}").format(keys, table_of(record), found)
        erased = 0
        for page in self._pages(query):
            done = self._try(lambda page=page: self._write(record, found, version, page))  # type: ignore[misc]  # called at once
            erased += done
            self.tell(done)
        return erased

    def note_parents(self, record: RecordType, condition: sql.Composable, version: int) -> None:
        """Have children up to a version emptied below rows `r` that stay as they are, but those on hold."""
        if self.has_children(record):
            query = sql.SQL(
                "INSERT INTO penstock.erased_parents (type, key, version)"
                " SELECT {}, r.{}::text, {} FROM {} AS r WHERE {} AND NOT {}"
            )
            key, held = sql.Identifier(record.key[0]), on_hold(self.registry, record)
            self.connection.execute(query.format(record.name, key, version, table_of(record), condition, held))

    def has_children(self, record: RecordType) -> bool:
        """Whether a type is another one's parent."""
        parents = (other.declaration.parent for other in self.registry.values())
        return any(parent is not None and parent.type == record.name for parent in parents)

    def _pages(self, query: sql.Composed) -> Iterator[Sequence[Key]]:
        """Keys, a page at a time. The server keeps what it has found, so that nothing is locked between two pages."""
        with self.connection.cursor("penstock_erased", withhold=True) as cursor:
            cursor.itersize = FETCH_ROWS
            cursor.execute(query)
            rows = iter(cursor)
            wanted = PAGE_ROWS
            while page := cast("list[Key]", list(islice(rows, wanted))):
                begin = self.now()
                yield page
                is_slow = self.now() - begin > PAGE_S
                wanted = max(LEAST_ROWS, wanted // 2) if is_slow else wanted + LEAST_ROWS

    def _try(self, write: Callable[[], int]) -> int:
        for attempt in range(MAX_TRIES):
            try:
                return write()
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
                self.sleep(min(0.5, 0.01 * 2**attempt) * random.uniform(0.5, 1))  # noqa: S311  # jitter
        raise DatabaseAway(f"rows stayed locked through {MAX_TRIES} tries: run the command again to finish")

    def _write(self, record: RecordType, condition: sql.Composed, version: int, page: Sequence[Key]) -> int:
        columns = [list(values) for values in zip(*sorted(page), strict=True)]
        is_appended = record.declaration.append_only is not None
        statement = self._delete(record, condition) if is_appended else self._bury(record, condition, version)
        with self.connection.transaction():
            self.connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(LOCK_TIMEOUT_MS))
            keep_holds(self.connection)
            keys = cast("list[Key]", self.connection.execute(statement, columns).fetchall())
            if keys and not is_appended:
                self._forget(record, keys)
                if self.has_children(record):
                    note_erased(self.connection, record.name, dict.fromkeys((key[0] for key in keys), version))
        return len(keys)

    def _bury(self, record: RecordType, condition: sql.Composed, version: int) -> sql.Composed:
        plan = self._plans.setdefault(record.name, UpsertPlan(record))
        values: dict[str, sql.Composable] = {name: sql.Identifier("r", name) for name in record.key}
        values |= {"_deleted_version": sql.Literal(version), "_deleted_event": sql.Literal(ERASED)}
        columns = sql.SQL(", ").join(
            sql.SQL("{}::{} AS {}").format(values.get(name, sql.NULL), sql.SQL(kind), sql.Identifier(name))
            for name, kind in plan.types.items()
        )
        source = sql.SQL("(SELECT {} FROM {} ORDER BY {})").format(
            columns, self._asked(record, condition), sql.SQL(", ").join(sql.Identifier("r", name) for name in record.key)
        )
        # The upsert is a text of its own: a percent sign in it is no parameter.
        mark = "penstock_source"
        before, after = plan.upsert_from(mark).replace("%", "%%").split(mark)
        keys = sql.SQL(", ").join(sql.SQL("t.{}::text").format(sql.Identifier(name)) for name in record.key)
        return sql.SQL("{}{}{} RETURNING {}").format(sql.SQL(before), source, sql.SQL(after), keys)

    def _delete(self, record: RecordType, condition: sql.Composed) -> sql.Composed:
        same = sql.SQL(" AND ").join(sql.SQL("t.{0} = r.{0}").format(sql.Identifier(name)) for name in record.key)
        keys = sql.SQL(", ").join(sql.SQL("t.{}::text").format(sql.Identifier(name)) for name in record.key)
        return sql.SQL("DELETE FROM {} AS t USING {} AND {} RETURNING {}").format(
            table_of(record), self._asked(record, condition), same, keys
        )

    def _asked(self, record: RecordType, condition: sql.Composed) -> sql.Composed:
        """The rows of a page for which the condition holds still; one array parameter for each column of the key."""
        names = [sql.Identifier(f"_{name}") for name in record.key]
        return sql.SQL("{} AS r JOIN unnest({}) AS g ({}) ON {} WHERE {}").format(
            table_of(record),
            keys_as(record, "%s::{}[]"),
            sql.SQL(", ").join(names),
            sql.SQL(" AND ").join(
                sql.SQL("r.{} = g.{}").format(sql.Identifier(name), other)
                for name, other in zip(record.key, names, strict=True)
            ),
            condition,
        )

    def _forget(self, record: RecordType, keys: Sequence[Key]) -> None:
        """Nobody is to resume what is erased."""
        self.connection.execute(
            "DELETE FROM penstock.recoveries WHERE type = %s AND key = ANY (%s)",
            [record.name, [Jsonb(list(key)) for key in keys]],
        )


def above_fence(record: RecordType, version: int) -> sql.Composed:
    """
    The SQL condition that all that a row `r` tells of itself is newer than a fence: it is of the person's new life.

    Its newest version is, its lowest where it keeps that, and each stamp of a column where it keeps these; a plus behind a
    stamp is recovery's.
    """
    parts = [sql.SQL("r._version > {}").format(version)]
    if record.declaration.parent:
        parts.append(sql.SQL("r._oldest > {}").format(version))
    if not record.declaration.append_only:
        parts.append(
            sql.SQL(
                "NOT EXISTS (SELECT FROM jsonb_each_text(r._stamps) AS stamp"
                " WHERE left(right(rtrim(stamp.value, '+'), 48), 16) <= lpad(to_hex({}::bigint), 16, '0') COLLATE \"C\")"
            ).format(version)
        )
    return sql.SQL("coalesce({}, false)").format(sql.SQL(" AND ").join(parts))


def erased_already(version: int) -> sql.Composed:
    """The SQL condition that a row `r` has been erased at least as far."""
    return sql.SQL("coalesce(r._deleted_event = {} AND r._deleted_version >= {}, false)").format(ERASED, version)
