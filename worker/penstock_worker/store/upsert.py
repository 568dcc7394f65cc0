"""
The statements that write one table: staging, COPY, and the upsert that merges staged rows into stored ones.

The merge is commutative, associative and idempotent per column (a join of a semilattice), so the table is a function of the
set of events, in whatever order and batches they come. `ON CONFLICT` evaluates it on the newest version of a locked row, so no
concurrent batch can slip between reading and writing.

A row is *plain* when its newest upsert was a full one that won every column: `_stamps` is NULL. Two plain rows merge by
comparing (version, event id) once. Everything else (partial records, deletes, unknown fields, a state that a newer event may
not take back) compares the stamps of each column, in SQL text that is generated here and helped by `functions.sql`. Full
records never pay for it, and a partial record pays little where it is newer than all that its row has seen (`upsert_single`).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property

from penstock_schemas.column import Column, Kind, Rule
from penstock_schemas.record import RecordType
from penstock_worker.store.privacy.erased import ERASED

__all__ = ["BASES", "UpsertPlan", "literal", "quote"]


def quote(name: str) -> str:
    """A name as an SQL identifier."""
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def literal(text: str) -> str:
    """A text as an SQL constant."""
    escaped = text.replace("'", "''")
    return f"'{escaped}'"


def _collation(column: Column) -> str:
    """Texts are compared by their bytes, as the fold of a batch does it, whatever the database's language."""
    return ' COLLATE "C"' if column.kind is Kind.TEXT else ""


@dataclass(frozen=True)
class UpsertPlan:
    """The SQL of one record type, built once per process."""

    record: RecordType

    @property
    def has_deletes(self) -> bool:
        """Whether rows of this type can be tombstones."""
        return self.record.declaration.append_only is None

    @property
    def has_oldest(self) -> bool:
        """Whether rows remember their lowest version, to fall with their parent."""
        return self.record.declaration.parent is not None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The staged columns: the record's, then the bookkeeping, in the order of COPY."""
        return (
            *(column.name for column in self.record.columns),
            "_version",
            "_event",
            *(["_oldest"] if self.has_oldest else []),
            *(["_deleted_version", "_deleted_event"] if self.has_deletes else []),
            "_stamps",
            "_extra",
        )

    @cached_property
    def table(self) -> str:
        """The table's quoted name."""
        declaration = self.record.declaration
        return f"{quote(declaration.schema)}.{quote(declaration.table_name)}"

    @cached_property
    def staging(self) -> str:
        """The staging table's name; short, because a domain and a table may each fill what PostgreSQL allows."""
        return f"pg_temp.staging_{zlib.crc32(self.table.encode()):08x}"

    @cached_property
    def create_staging(self) -> str:
        """Once per connection. The columns' types come from the table itself."""
        name = self.staging.removeprefix("pg_temp.")
        return (
            f"CREATE TEMP TABLE IF NOT EXISTS {name} ON COMMIT DELETE ROWS AS "
            f"SELECT {self._columns} FROM {self.table} WITH NO DATA"
        )

    @cached_property
    def copy(self) -> str:
        """Fills the staging table with lines of `copy_text`."""
        return f"COPY {self.staging} ({self._columns}) FROM STDIN"

    @cached_property
    def copy_new(self) -> str:
        """The same lines straight into the table; error 23505 where a key is there already."""
        return f"COPY {self.table} ({self._columns}) FROM STDIN"

    @cached_property
    def upsert(self) -> str:
        """Merges what is staged. Rows are written in the order in which they were staged: sorted, which is the lock order."""
        return self.upsert_from(self.staging)

    @cached_property
    def upsert_single(self) -> str:
        """The same, where each staged row is what one event says alone."""
        return self.upsert_from(self.staging, is_single=True)

    def upsert_from(self, source: str, *, is_single: bool = False) -> str:
        """The same from another table or subquery with the staged columns."""
        return (
            f"INSERT INTO {self.table} AS t ({self._columns}) SELECT {self._columns} FROM {source} AS s "
            f"ON CONFLICT ({self._key}) DO UPDATE SET {', '.join(self._assignments(is_single=is_single))}, _stored_at = now() "
            f"WHERE {self._is_change()}"
        )

    @cached_property
    def stamps_of_staged(self) -> str:
        """The stamps that the staged keys' rows hold now: key columns, then `_version, _event, _deleted_*, _stamps`."""
        return self.stamps_from(self.staging)

    def stamps_from(self, source: str) -> str:
        """The same for the keys of another table or subquery."""
        deleted = "t._deleted_version, t._deleted_event::text" if self.has_deletes else "NULL::bigint, NULL::text"
        keys = ", ".join(f"t.{quote(name)}" for name in self.record.key)
        return (
            f"SELECT {keys}, t._version, t._event::text, {deleted}, t._stamps "
            f"FROM {source} AS s JOIN {self.table} AS t USING ({self._key})"
        )

    @cached_property
    def stamps_of_doubtful(self) -> str:
        """Of staged rows that are one event each: those of the keys whose row another event was the last to change."""
        is_doubtful = "s._version IS NULL OR (t._version, t._event) IS DISTINCT FROM (s._version, s._event)"
        return f"{self.stamps_of_staged} WHERE {is_doubtful}"

    @cached_property
    def types(self) -> dict[str, str]:
        """The SQL types of the staged columns, in their order."""
        own = {"_version": Kind.BIGINT, "_oldest": Kind.BIGINT, "_deleted_version": Kind.BIGINT}
        own |= {"_event": Kind.UUID, "_deleted_event": Kind.UUID, "_stamps": Kind.JSONB, "_extra": Kind.JSONB}
        kinds = {column.name: column.kind for column in self.record.columns}
        return {name: str(kinds.get(name) or own[name]) for name in self.names}

    def state_stamp(self, row: str) -> str:
        """The stamp of the state in a stored row of this name; NULL where no event has told the state."""
        lifecycle = self.record.declaration.lifecycle
        assert lifecycle is not None, "only types with a lifecycle have a state"
        return self._stamp_of(row, self.record.by_name[lifecycle.field])

    @cached_property
    def parents_of(self) -> str:
        """Which of the given keys exist, the version at which each was deleted, and by whom; one array parameter."""
        (key,) = (quote(name) for name in self.record.key)
        (kind,) = (self.record.by_name[name].kind for name in self.record.key)
        return f"SELECT {key}, _deleted_version, _deleted_event::text FROM {self.table} WHERE {key} = ANY(%s::{kind}[])"

    @cached_property
    def _columns(self) -> str:
        return ", ".join(quote(name) for name in self.names)

    @cached_property
    def _key(self) -> str:
        return ", ".join(quote(name) for name in self.record.key)

    def _assignments(self, *, is_single: bool) -> list[str]:
        later = "CASE WHEN excluded._version IS NOT NULL AND (t._version IS NULL OR {newer}) THEN excluded.{c} ELSE t.{c} END"
        alive = f"CASE WHEN {self._is_gone} THEN NULL ELSE {later} END"
        is_onward = self._is_onward if is_single else "false"
        sets = [f"{quote(column.name)} = {self._merged(column, is_onward)}" for column in self.record.values]
        sets += [f"{name} = {alive.format(newer=_NEWER, c=name)}" for name in ("_version", "_event")]
        if self.has_oldest:
            sets.append("_oldest = LEAST(excluded._oldest, t._oldest)")
        if self.has_deletes:
            version, event = (f"CASE WHEN {_DELETED_LATER} THEN excluded.{name} ELSE t.{name} END" for name in _DELETED)
            # An erasure's tombstone stays one, also if a later delete takes it further: it is never purged.
            is_erased = f"{literal(ERASED)} IN (t._deleted_event, excluded._deleted_event)"
            event = f"CASE WHEN {is_erased} THEN {literal(ERASED)} ELSE {event} END"
            sets += [f"_deleted_version = {version}", f"_deleted_event = {event}"]
        sets.append(
            f"_stamps = CASE WHEN NOT ({self._is_slow}) OR {self._is_gone} THEN NULL "
            f"WHEN {is_onward} THEN {self._stamps('t')} || excluded._stamps ELSE {self._merged_stamps()} END"
        )
        sets.append(f"_extra = {self._merged_extra()}")
        return sets

    @cached_property
    def _is_onward(self) -> str:
        """
        Whether a partial record takes every column that it sets, for it is newer than all that its row has seen.

        A row that lives is newer than its last delete. Where its state is not terminal, no column has the rank of one that is,
        and none but those that move with the state ever has.
        """
        if self.record.has_first:
            return "false"
        reasons = ["excluded._stamps IS NOT NULL", "excluded._extra IS NULL", _NEWER]
        if self.record.declaration.lifecycle:
            moving = ", ".join(literal(column.name) for column in self.record.values if column.rule is Rule.STATE)
            reasons.append(
                f"({self._rank('excluded')} = '1' OR {self._rank('t')} = '0' OR NOT excluded._stamps ?| ARRAY[{moving}])"
            )
        return f"({' AND '.join(reasons)})"

    def _merged(self, column: Column, is_onward: str) -> str:
        name = quote(column.name)
        ours, theirs = f"t.{name}", f"excluded.{name}"
        if column.rule in (Rule.MIN, Rule.MAX):
            function = "LEAST" if column.rule is Rule.MIN else "GREATEST"
            return f"CASE WHEN {self._is_gone} THEN NULL ELSE {function}({ours}{_collation(column)}, {theirs}) END"
        before, after = (self._stamp_of(side, column) for side in ("t", "excluded"))
        sign = "<" if column.rule is Rule.FIRST else ">"
        wins = f'{after} IS NOT NULL AND ({before} IS NULL OR {after} {sign} {before} COLLATE "C")'
        by_stamps = f"CASE WHEN {wins} THEN {theirs} ELSE {ours} END"
        if self.has_deletes and not self.record.is_delete_final:
            is_wiped = (
                f'{self._deleted} IS NOT NULL AND coalesce(GREATEST({before}, {after}) <= {self._deleted} COLLATE "C", true)'
            )
            by_stamps = f"CASE WHEN {is_wiped} THEN NULL ELSE {by_stamps} END"
        return (
            f"CASE WHEN NOT ({self._is_slow}) THEN CASE WHEN {_NEWER} THEN {theirs} ELSE {ours} END "
            f"WHEN {is_onward} THEN CASE WHEN excluded._stamps ? {literal(column.name)} THEN {theirs} ELSE {ours} END "
            f"WHEN {self._is_gone} THEN NULL ELSE {by_stamps} END"
        )

    def _stamp_of(self, side: str, column: Column) -> str:
        """The stamp of a column in a row: its own, else its base's; NULL where no event has set it."""
        base = BASES.get(column.rule, "@full")
        return f"coalesce({side}._stamps ->> {literal(column.name)}, {self._base(side, base)})"

    def _base(self, side: str, base: str) -> str:
        return f"CASE WHEN {side}._stamps IS NULL THEN {self._plain(side, base)} ELSE {side}._stamps ->> '{base}' END"

    def _plain(self, side: str, base: str) -> str:
        stamp = f"penstock.stamp({side}._version, {side}._event)"
        return f"{self._rank(side)} || {stamp}" if base == "@state" else stamp

    def _rank(self, side: str) -> str:
        lifecycle = self.record.declaration.lifecycle
        assert lifecycle is not None, "only types with a lifecycle have a rank"
        states = ", ".join(literal(state) for state in lifecycle.terminal)
        return f"CASE WHEN {side}.{quote(lifecycle.field)} IN ({states}) THEN '1' ELSE '0' END"

    @cached_property
    def bases(self) -> str:
        """The base of each column that does not have '@full', as the SQL of the object that `merge_stamps` takes."""
        rules = {column.name: BASES[column.rule] for column in self.record.values if column.rule in BASES}
        pairs = ", ".join(f"{literal(name)}, '{base}'" for name, base in rules.items())
        return f"jsonb_build_object({pairs})"

    @cached_property
    def used_bases(self) -> tuple[str, ...]:
        """The bases that a full record of this type writes."""
        return (
            "@full",
            *(["@state"] if self.record.declaration.lifecycle else []),
            *(["@first"] if self.record.has_first else []),
        )

    @cached_property
    def _is_slow(self) -> str:
        """Whether stamps decide: one side is not plain, or the newer event may not take the state along."""
        if self.record.has_first:
            return "true"
        reasons = [f"{side}.{name} {is_odd}" for side in ("t", "excluded") for name, is_odd in self._odd]
        if self.record.declaration.lifecycle:
            ours, theirs = (f"({self._rank(side)}, {side}._version, {side}._event)" for side in ("t", "excluded"))
            reasons.append(f"({theirs} > {ours}) IS DISTINCT FROM ({_NEWER})")
        return " OR ".join(reasons)

    @property
    def _odd(self) -> list[tuple[str, str]]:
        deleted = [("_deleted_version", "IS NOT NULL")] if self.has_deletes else []
        return [("_stamps", "IS NOT NULL"), ("_version", "IS NULL"), *deleted]

    @property
    def _deleted(self) -> str:
        """The stamp of the last delete of either side."""
        if not self.has_deletes:
            return "NULL::text"
        ours, theirs = (f"penstock.stamp({side}._deleted_version, {side}._deleted_event)" for side in ("t", "excluded"))
        return f'GREATEST({ours} COLLATE "C", {theirs})'

    @property
    def _newest(self) -> str:
        ours, theirs = (f"penstock.stamp({side}._version, {side}._event)" for side in ("t", "excluded"))
        return f'GREATEST({ours} COLLATE "C", {theirs})'

    @cached_property
    def _is_gone(self) -> str:
        """Whether nothing of the merged row lives: it is a tombstone or a placeholder."""
        if not self.has_deletes:
            return "false"
        deleted = "(t._deleted_version IS NOT NULL OR excluded._deleted_version IS NOT NULL)"
        return deleted if self.record.is_delete_final else f"({deleted} AND coalesce({self._newest} <= {self._deleted}, true))"

    def _merged_stamps(self) -> str:
        ours, theirs = (self._stamps(side) for side in ("t", "excluded"))
        return (
            f"CASE WHEN t._version IS NULL AND excluded._version IS NULL THEN NULL ELSE penstock.merge_stamps("
            f"{ours}, {theirs}, {self.bases}, {len(self.used_bases)}, {self._deleted}, {self._newest}) END"
        )

    def _stamps(self, side: str) -> str:
        """A row's stamps written out, also where it is plain."""
        pairs = ", ".join(f"'{base}', {self._plain(side, base)}" for base in self.used_bases)
        is_plain = f"{side}._stamps IS NULL AND {side}._version IS NOT NULL"
        return f"CASE WHEN {is_plain} THEN jsonb_build_object({pairs}) ELSE {side}._stamps END"

    def _merged_extra(self) -> str:
        return (
            f"CASE WHEN (t._extra IS NULL AND excluded._extra IS NULL) OR {self._is_gone} THEN NULL "
            f"ELSE penstock.merge_extra(t._extra, excluded._extra, t._stamps, excluded._stamps, {self._deleted}) END"
        )

    def _is_change(self) -> str:
        """Whether the row must be written: a staged row that says nothing new leaves it alone."""
        deletes = " OR excluded._deleted_version IS NOT NULL" if self.has_deletes else ""
        reasons = [f"(({self._is_slow}) AND (excluded._version IS NOT NULL{deletes}))", _NEWER]
        for column in self.record.values:
            if column.rule in (Rule.MIN, Rule.MAX):
                sign = "<" if column.rule is Rule.MIN else ">"
                ours, theirs = f"t.{quote(column.name)}", f"excluded.{quote(column.name)}"
                reasons.append(f"coalesce({theirs} {sign} {ours}{_collation(column)}, {theirs} IS NOT NULL)")
        if self.has_oldest:
            reasons.append("excluded._oldest < t._oldest")
        return " OR ".join(reasons)


#: The stamp that speaks for a column which has none of its own; '@full' for the other rules.
BASES = {Rule.STATE: "@state", Rule.FIRST: "@first"}
_DELETED = ("_deleted_version", "_deleted_event")
_NEWER = "(excluded._version, excluded._event) > (t._version, t._event)"
_DELETED_LATER = (
    "excluded._deleted_version IS NOT NULL AND (t._deleted_version IS NULL "
    "OR (excluded._deleted_version, excluded._deleted_event) > (t._deleted_version, t._deleted_event))"
)
