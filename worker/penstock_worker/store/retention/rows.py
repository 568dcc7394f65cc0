"""
A table without what is due: read through by the places of its rows, which needs no index, and deleted in small transactions.

Two kinds of steps. One looks: it locks nothing, and may take its time. The other deletes: it locks the rows that were found, if
nobody else has them locked, asks again whether they may go, and aims to be over in 20 ms. It never waits for a row, so that it
cannot be in a circle of waiting; who waits for it does so for one step at most.

Children go before their parents, in steps of their own: a parent may have millions. It is locked while it is deleted, and
whoever wants to give it a child then waits, finds it gone (23503), and tries again with a placeholder in its place.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg import sql

from penstock_schemas.record import RecordType
from penstock_worker.store.connection import Connection
from penstock_worker.store.legal_holds import keep_holds, on_hold
from penstock_worker.store.retention.pace import Pace, Size
from penstock_worker.store.retention.rules import Rules, parent_field, table_of

__all__ = ["Purge", "pages_of", "roughly_pages_of"]

#: Seconds that a transaction with locks should take; thrice that is still little to wait.
STEP_S = 0.02
#: Seconds that a look should take. It locks nothing, but the run ends between two looks only.
LOOK_S = 0.2
#: Rows of the first deleting step of a run; the next ones follow the time that it took.
FIRST_ROWS = 100
MAX_ROWS = 2_000
FIRST_PAGES = 64
#: 16 MB: the places of the rows in them are in memory.
MAX_PAGES = 2_048
#: Parents whose children are looked at together: not long before they are deleted.
FAMILIES = 500
#: Children whose places are in memory at once.
MAX_CHILDREN = 20_000

Places = Sequence[str]


@dataclass
class Purge:
    """
    The purge of one run.

    Args:
        connection: In autocommit.
        rules: Which rows may go.
        pace: How fast.
    """

    connection: Connection
    rules: Rules
    pace: Pace
    #: Rows by type.
    deleted: Counter[str] = field(default_factory=Counter)
    emptied: Counter[str] = field(default_factory=Counter)
    _pages: Size = field(default_factory=lambda: Size(FIRST_PAGES, LOOK_S, MAX_PAGES))
    #: By type: to delete a parent costs a look for its children.
    _rows: defaultdict[str, Size] = field(default_factory=lambda: defaultdict(lambda: Size(FIRST_ROWS, STEP_S, MAX_ROWS)))

    def sweep(self, record: RecordType, page: int = 0) -> Iterator[int]:
        """
        Rid a table of what is due, from a page on.

        Yields:
            The page before which it is done. What is added meanwhile behind its end is left to the next sweep.

        Raises:
            OutOfTime: Go on from the last page that was yielded.
        """
        table, due = table_of(record), self.rules.due(record)
        last = pages_of(self.connection, table)
        while page < last:
            end, found = self._look(table, page, last, due)
            self._clear(record, found)
            for child in self.rules.children[record.name]:
                self._bury_fallen(record, child, page, end)
            page = end
            yield page
            self.pace.check()

    def sweep_month(self, record: RecordType, partition: sql.Identifier, until: datetime | None = None) -> None:
        """
        Delete the rows of an append-only type's partition that are not on hold; those before `until`, or all.

        Raises:
            OutOfTime: Do it again.
        """
        free: sql.Composable = sql.SQL("NOT {}").format(on_hold(self.rules.registry, record))
        if until is not None:
            free = sql.SQL("r.{} < {} AND {}").format(
                sql.Identifier(str(record.declaration.append_only)), sql.Literal(until), free
            )
        delete = _delete(partition, free)
        page, last = 0, pages_of(self.connection, partition)
        while page < last:
            page, found = self._look(partition, page, last, free)
            self._step(record, partition, found, [(self.deleted, delete)])

    def _look(self, table: sql.Identifier, page: int, last: int, condition: sql.Composable) -> tuple[int, Places]:
        """Read some pages; the first one behind them, and the places of the rows that were looked for."""
        with self.pace.piece(self._pages, last - page) as pages:
            query = sql.SQL("SELECT r.ctid::text FROM {} r WHERE {} AND {}").format(
                table, _window("r", page, page + pages), condition
            )
            return page + pages, [str(place) for (place,) in self.connection.execute(query)]

    def _ask(self, query: sql.Composed, *values: Any) -> list[tuple[Any, ...]]:
        with self.pace.paused():
            return self.connection.execute(query, values or None).fetchall()

    def _clear(self, record: RecordType, places: Places) -> None:
        """Delete rows that are due, after what hangs on them."""
        cutoff = self.rules.cutoff(record)
        if cutoff is None or not self.rules.children[record.name]:
            self._remove(record, places, cutoff)
            return
        query = sql.SQL("SELECT r.{} FROM {} r WHERE {} AND {}").format(
            sql.Identifier(record.key[0]), table_of(record), _AMONG, self.rules.expired(record)
        )
        for start in range(0, len(places), FAMILIES):
            part = list(places[start : start + FAMILIES])
            self._clear_below((record,), [key for (key,) in self._ask(query, part)], cutoff)
            self._remove(record, part, cutoff)

    def _clear_below(self, above: tuple[RecordType, ...], keys: Sequence[Any], cutoff: int) -> None:
        """Delete the children of old rows, after their own; `above` are the rows' type and those of their parents."""
        record = above[0]
        for child in self.rules.children[record.name] if keys else ():
            query = sql.SQL("SELECT r.ctid::text, r.{} FROM {} r WHERE {} AND {} LIMIT {}").format(
                sql.Identifier(child.key[0]),
                table_of(child),
                _of_parents(record, child),
                self.rules.removable_child(child, cutoff),
                MAX_CHILDREN,
            )
            is_there_more = True
            while is_there_more:
                found = self._ask(query, list(keys))
                if self.rules.children[child.name]:
                    self._clear_below((child, *above), [key for _, key in found], cutoff)
                removed = self._remove(child, [str(place) for place, _ in found], cutoff, above)
                # Where nothing could be removed, others work with those rows: the next run looks again.
                is_there_more = len(found) == MAX_CHILDREN and removed > 0

    def _remove(self, record: RecordType, places: Places, cutoff: int | None, above: Sequence[RecordType] = ()) -> int:
        """Delete rows on which nothing hangs, and empty those that must stay; how many it was."""
        table = table_of(record)
        statements = [(self.deleted, _delete(table, self.rules.deletable(record, cutoff, above)))]
        if cutoff is not None:
            statements.append((self.emptied, _empty(record, self.rules.emptiable(record, cutoff, above))))
        return self._step(record, table, places, statements)

    def _bury_fallen(self, parent: RecordType, child: RecordType, first: int, end: int) -> None:
        """Make tombstones of the children that fell with the parents in these pages."""
        query = sql.SQL("SELECT p.{} FROM {} p WHERE {} AND p._deleted_version IS NOT NULL").format(
            sql.Identifier(parent.key[0]), table_of(parent), _window("p", first, end)
        )
        keys = [key for (key,) in self._ask(query)]
        fallen = sql.SQL("p.{} = r.{} AND {}").format(
            sql.Identifier(parent.key[0]), sql.Identifier(parent_field(child)), self.rules.fallen(child)
        )
        find = sql.SQL("SELECT r.ctid::text FROM {} r, {} p WHERE {} AND {} LIMIT {}").format(
            table_of(child), table_of(parent), _of_parents(parent, child), fallen, MAX_CHILDREN
        )
        found: Places = ()
        while keys and (not found or len(found) == MAX_CHILDREN):
            found = [str(place) for (place,) in self._ask(find, keys)]
            if not self._step(child, table_of(child), found, [(self.emptied, _bury(parent, child, fallen))]):
                return

    def _step(
        self,
        record: RecordType,
        table: sql.Identifier,
        places: Places,
        statements: Sequence[tuple[Counter[str], sql.Composed]],
    ) -> int:
        """Run statements on rows, as many at a time as the pace allows; how many rows they changed."""
        lock = sql.SQL("SELECT r.ctid::text FROM {} r WHERE {} FOR UPDATE SKIP LOCKED").format(table, _AMONG)
        at = changed = 0
        while at < len(places):
            with self._piece(record, len(places) - at) as size, self.connection.transaction():
                keep_holds(self.connection)
                part = list(places[at : at + size])
                locked = [place for (place,) in self.connection.execute(lock, [part])]
                counts = [self.connection.execute(statement, [locked]).rowcount for _, statement in statements]
            for (counter, _), count in zip(statements, counts, strict=True):
                counter[record.name] += count
            at, changed = at + size, changed + sum(counts)
            self.pace.check()
        return changed

    def _piece(self, record: RecordType, there_is: int) -> AbstractContextManager[int]:
        return self.pace.piece(self._rows[record.name], there_is, locks=True)


def pages_of(connection: Connection, table: sql.Identifier) -> int:
    """How many pages a table has; 0 where there is none."""
    query = sql.SQL("SELECT coalesce(pg_relation_size(to_regclass({})) / current_setting('block_size')::int, 0)")
    row = connection.execute(query.format(table.as_string())).fetchone()
    assert row is not None  # a SELECT without FROM has a row
    return int(str(row[0]))


def roughly_pages_of(connection: Connection, tables: Iterable[sql.Identifier]) -> int:
    """How many pages tables had when PostgreSQL last counted them. It waits for no lock on any."""
    names = [table.as_string() for table in tables]
    query = "SELECT coalesce(sum(relpages), 0) FROM pg_class JOIN unnest(%s::text[]) AS name ON oid = to_regclass(name)"
    row = connection.execute(query, [names]).fetchone()
    assert row is not None  # an aggregate has a row
    return int(str(row[0]))


#: The rows at places, one array parameter.
_AMONG = sql.SQL("r.ctid = ANY (%s::text[]::tid[])")


def _window(name: str, first: int, end: int) -> sql.Composed:
    ctid = sql.Identifier(name, "ctid")
    return sql.SQL("{} >= {}::tid AND {} < {}::tid").format(ctid, f"({first},0)", ctid, f"({end},0)")


def _of_parents(parent: RecordType, child: RecordType) -> sql.Composed:
    """The children of parents, whose keys are one array parameter."""
    kind = sql.SQL(parent.by_name[parent.key[0]].kind.value)
    return sql.SQL("r.{} = ANY (%s::{}[])").format(sql.Identifier(parent_field(child)), kind)


def _delete(table: sql.Identifier, condition: sql.Composable) -> sql.Composed:
    return sql.SQL("DELETE FROM {} AS r WHERE {} AND {}").format(table, _AMONG, condition)


def _empty(record: RecordType, condition: sql.Composable) -> sql.Composed:
    """Take the content of rows, and leave what they remember of their deletes and of their lowest version."""
    return sql.SQL("UPDATE {} AS r SET {} WHERE {} AND {}").format(table_of(record), _nothing(record), _AMONG, condition)


def _bury(parent: RecordType, child: RecordType, condition: sql.Composable) -> sql.Composed:
    """Empty children, and write their parent's delete on them, or keep their own if it is later."""
    return sql.SQL(
        "UPDATE {child} AS r SET {nothing}, (_deleted_version, _deleted_event) = (SELECT d.version, d.event"
        " FROM (VALUES (r._deleted_version, r._deleted_event), (p._deleted_version, p._deleted_event)) d (version, event)"
        " ORDER BY d.version DESC NULLS LAST, d.event DESC LIMIT 1) FROM {parent} p WHERE {among} AND {condition}"
    ).format(child=table_of(child), nothing=_nothing(child), parent=table_of(parent), among=_AMONG, condition=condition)


def _nothing(record: RecordType) -> sql.Composed:
    """What takes a row's content; its key, its parent and `_oldest` stay."""
    kept = {*record.key, record.declaration.parent.field if record.declaration.parent else ""}
    names = [column.name for column in record.columns if column.name not in kept]
    parts = [sql.SQL("{} = NULL").format(sql.Identifier(name)) for name in (*names, "_version", "_event", "_stamps", "_extra")]
    return sql.SQL("{}, _stored_at = now()").format(sql.SQL(", ").join(parts))
