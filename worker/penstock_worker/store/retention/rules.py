"""
Which rows of a type may go at a moment, as SQL conditions on the row `r`.

| word       | meaning                                                                                                    |
|------------|------------------------------------------------------------------------------------------------------------|
| newest     | a row's age: the version of its last upsert or delete; of a placeholder, when it was stored                |
| old        | its newest is before the cutoff, now less its retention; nothing below it is newer or on hold              |
| bound      | its delete must be remembered still: it is too young, or an erasure's, which is remembered for ever        |
| idle       | a tombstone or placeholder that is not bound, on which nothing hangs and which nobody touched for long     |
| anchor     | a row without content that must stay, for it is bound or something bound hangs on it                       |
| fallen     | a child whose lowest version is not above its parent's delete; it is hidden already                        |

An old row that must stay as an anchor is emptied. So is a fallen one: gone, a late event of its own would bring it back, since
the lowest version by which it falls would be forgotten; as a tombstone it goes when it is idle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from uuid import UUID

from psycopg import sql

from penstock_schemas.record import RecordType
from penstock_schemas.registry import Registry
from penstock_worker.store.legal_holds import on_hold

__all__ = ["ERASED", "Rules", "newest", "parent_field", "table_of"]

#: The event id of an erasure's tombstones.
ERASED = UUID(int=2**128 - 1)

_Condition = Callable[[RecordType, str], sql.Composable]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def table_of(record: RecordType) -> sql.Identifier:
    """The type's table."""
    return sql.Identifier(record.declaration.schema, record.declaration.table_name)


@dataclass(frozen=True)
class Rules:
    """
    The conditions at one moment; no type is append-only here.

    Args:
        registry: With the retention that is in force.
        now: The moment, aware.
        tombstone_age: How long deletes are remembered, and how long parents that did not come are waited for.
    """

    registry: Registry
    now: datetime
    tombstone_age: timedelta

    @cached_property
    def children(self) -> dict[str, list[RecordType]]:
        """The types of the children of each type."""
        found: dict[str, list[RecordType]] = {name: [] for name in self.registry}
        for record in self.registry.values():
            if record.declaration.parent:
                found[record.declaration.parent.type].append(record)
        return found

    def cutoff(self, record: RecordType) -> int | None:
        """The version from which on rows stay; None where all stay."""
        retention = record.declaration.retention
        return _microseconds(self.now - retention) if retention else None

    def due(self, record: RecordType) -> sql.Composed:
        """That a row may go, as far as it says itself: it is idle, or of age. What hangs on one that is of age is not asked."""
        return sql.SQL("({} OR ({} AND NOT {}))").format(
            self.idle(record), self.is_of_age(record), on_hold(self.registry, record)
        )

    def is_of_age(self, record: RecordType) -> sql.Composed:
        """That a row that ever had content, or a parent that did not come, is older than the cutoff."""
        cutoff = self.cutoff(record)
        if cutoff is None:
            return sql.SQL("(false)").format()
        return sql.SQL("((r._version IS NOT NULL OR r._deleted_version IS NULL) AND {} < {})").format(newest("r"), cutoff)

    def expired(self, record: RecordType) -> sql.Composed:
        """That a row goes for its age, with all that hangs on it."""
        cutoff = self.cutoff(record)
        old = self.is_family_old(record, cutoff) if cutoff is not None else sql.SQL("false")
        return sql.SQL("({} AND NOT {} AND {})").format(self.is_of_age(record), on_hold(self.registry, record), old)

    def idle(self, record: RecordType) -> sql.Composed:
        """That a row is a tombstone or a placeholder that nobody needs any more."""
        return sql.SQL("({} AND NOT {} AND NOT {})").format(
            self._is_idle, self._has_children(record), on_hold(self.registry, record)
        )

    def is_family_old(self, record: RecordType, cutoff: int) -> sql.Composed:
        """That nothing below a row is on hold or newer than the cutoff."""
        return sql.SQL("NOT {}").format(self._has_child(record, "r", lambda child, name: self._is_kept(child, name, cutoff)))

    def deletable(self, record: RecordType, cutoff: int | None, above: Sequence[RecordType] = ()) -> sql.Composed:
        """
        That a row can be deleted: it is older than the cutoff or idle, and nothing hangs on it.

        Args:
            record: Its type.
            cutoff: Of its own type, or of the one with which it goes.
            above: It goes with its parent, theirs and so on of these types, which must all be older than the cutoff too.
        """
        parts = [self._is_idle]
        if cutoff is not None:
            parts.append(
                sql.SQL("({} < {} AND NOT {} AND {})").format(
                    newest("r"), cutoff, self._is_bound("r"), _are_old(record, above, cutoff)
                )
            )
        return sql.SQL("({} AND NOT {} AND NOT {})").format(
            _any(parts), self._has_children(record), on_hold(self.registry, record)
        )

    def emptiable(self, record: RecordType, cutoff: int, above: Sequence[RecordType] = ()) -> sql.Composed:
        """That a row is older than the cutoff and can lose its content at least: nothing but anchors hangs on it."""
        loose = self._has_child(record, "r", lambda child, name: sql.SQL("NOT {}").format(self._is_anchor(child, name)))
        return sql.SQL("(r._version IS NOT NULL AND {} < {} AND {} AND NOT {} AND NOT {})").format(
            newest("r"), cutoff, _are_old(record, above, cutoff), loose, on_hold(self.registry, record)
        )

    def removable_child(self, record: RecordType, cutoff: int) -> sql.Composed:
        """That a child of an old row is old itself, not on hold, and no anchor already."""
        return sql.SQL("({} < {} AND NOT {} AND NOT {})").format(
            newest("r"), cutoff, self._is_anchor(record, "r"), on_hold(self.registry, record, with_parents=False)
        )

    def fallen(self, record: RecordType) -> sql.Composed:
        """That a child has content and falls with its parent, the row `p`."""
        return sql.SQL("(r._version IS NOT NULL AND r._oldest <= p._deleted_version AND NOT {})").format(
            on_hold(self.registry, record)
        )

    def _is_kept(self, record: RecordType, name: str, cutoff: int) -> sql.Composed:
        """That a row below an old one keeps it. The parents are known not to be on hold."""
        is_held = on_hold(self.registry, record, name, with_parents=False)
        below = self._has_child(record, name, lambda child, name: self._is_kept(child, name, cutoff))
        return _any([is_held, sql.SQL("{} >= {}").format(newest(name), cutoff), below])

    def _is_anchor(self, record: RecordType, name: str) -> sql.Composed:
        holds_on = _any([self._is_bound(name), self._has_child(record, name, self._is_anchor)])
        return sql.SQL("({} IS NULL AND {})").format(sql.Identifier(name, "_version"), holds_on)

    def _is_bound(self, name: str) -> sql.Composed:
        """Both clocks must say that a delete is old: a producer may have dated it back."""
        version, event, stored = (
            sql.Identifier(name, column) for column in ("_deleted_version", "_deleted_event", "_stored_at")
        )
        limit = self.now - self.tombstone_age
        return sql.SQL("({} IS NOT NULL AND ({} = {} OR {} >= {} OR {} >= {}))").format(
            version, event, ERASED, version, _microseconds(limit), stored, limit
        )

    @property
    def _is_idle(self) -> sql.Composed:
        limit = self.now - self.tombstone_age
        return sql.SQL("(r._version IS NULL AND r._stored_at < {} AND NOT {})").format(limit, self._is_bound("r"))

    def _has_children(self, record: RecordType) -> sql.Composed:
        return self._has_child(record, "r", _whatever)

    def _has_child(self, record: RecordType, name: str, condition: _Condition) -> sql.Composed:
        """That a row has a child of any type of which the condition, given its type and name in the query, is true."""
        return _any(
            [
                sql.SQL("EXISTS (SELECT FROM {} {} WHERE {} = {} AND {})").format(
                    table_of(child),
                    sql.Identifier(below := f"{name}_{place}"),
                    sql.Identifier(below, parent_field(child)),
                    sql.Identifier(name, record.key[0]),
                    condition(child, below),
                )
                for place, child in enumerate(self.children[record.name])
            ]
        )


def _whatever(_child: RecordType, _name: str) -> sql.SQL:
    return sql.SQL("true")


def newest(name: str) -> sql.Composed:
    """The SQL of a row's age, in microseconds since 1970."""
    version, deleted, stored = (sql.Identifier(name, column) for column in ("_version", "_deleted_version", "_stored_at"))
    return sql.SQL("coalesce(GREATEST({}, {}), (extract(epoch FROM {}) * 1000000)::bigint)").format(version, deleted, stored)


def _are_old(record: RecordType, above: Sequence[RecordType], cutoff: int, name: str = "r") -> sql.Composable:
    """That a row's parent, and all above that one, are older than the cutoff."""
    if not above:
        return sql.SQL("true")
    parent, higher = above[0], f"{name}_above"
    return sql.SQL("EXISTS (SELECT FROM {} {} WHERE {} = {} AND {} < {} AND {})").format(
        table_of(parent),
        sql.Identifier(higher),
        sql.Identifier(higher, parent.key[0]),
        sql.Identifier(name, parent_field(record)),
        newest(higher),
        cutoff,
        _are_old(parent, above[1:], cutoff, higher),
    )


def parent_field(record: RecordType) -> str:
    """The column of a child that holds its parent's key."""
    assert record.declaration.parent is not None, "only children have one"
    return record.declaration.parent.field


def _any(parts: Sequence[sql.Composable]) -> sql.Composed:
    return sql.SQL("({})").format(sql.SQL(" OR ").join(parts or [sql.SQL("false")]))


def _microseconds(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)
