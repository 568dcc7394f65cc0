"""The tables of a batch: each written with one statement, or around its culprits; parents first, and never missing."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Any

import psycopg

from penstock_schemas.registry import Registry
from penstock_worker.ingest import failpoints
from penstock_worker.ingest.blame import blame, is_of_table, one_line, verdict_on_table
from penstock_worker.ingest.block import Block
from penstock_worker.ingest.fence import refuse_children
from penstock_worker.ingest.freshness import Freshness
from penstock_worker.ingest.groups import Group, Groups, comparable
from penstock_worker.ingest.message import Event
from penstock_worker.ingest.outcome import Outcome, Verdict
from penstock_worker.ingest.reduce import Tombstone
from penstock_worker.ingest.stage import Culprit, Item, Placeholder, Stage, Staged, Unwritable
from penstock_worker.ingest.stopwatch import Stopwatch
from penstock_worker.ingest.superseded import supersede, supersede_fallen
from penstock_worker.store.careful import Search
from penstock_worker.store.connection import Connection, Database
from penstock_worker.store.privacy.children import note_erased
from penstock_worker.store.privacy.erased import ERASED
from penstock_worker.store.privacy.fences import subject_text
from penstock_worker.store.privacy.kept import Grave, look_at_graves
from penstock_worker.store.upsert import UpsertPlan

__all__ = ["Tables"]

logger = logging.getLogger(__name__)


@dataclass
class Deletes:
    """The versions at which parents were deleted, by key; `erased` are those whose person was."""

    versions: dict[Any, int] = field(default_factory=dict)
    erased: set[Any] = field(default_factory=set)

    def add(self, key: Any, version: int, *, is_erased: bool = False) -> None:
        """Note one of a parent's deletes."""
        self.versions[key] = max(version, self.versions.get(key, 0))
        if is_erased:
            self.erased.add(key)


class Tables:
    """
    Writes the tables of record types.

    Args:
        database: The process's connection.
        stages: By record type, parents before children.
        registry: The same types, for what is kept from an erasure.
    """

    def __init__(self, database: Database, stages: Mapping[str, Stage], registry: Registry) -> None:
        self._database, self._stages, self.registry = database, stages, registry
        self._freshness: dict[str, Freshness] = defaultdict(Freshness)
        #: By parent type: the types of its children, each with the field that holds the parent's key.
        self._children: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for name, stage in stages.items():
            parent = stage.plan.record.declaration.parent
            if parent:
                self._children[parent.type].append((name, parent.field))

    def prepare(self, names: Iterable[str]) -> dict[str, psycopg.Error]:
        """Make the staging tables for events of these types; the tables that do not fit, each with what it lacks."""
        unfit = {}
        for name in self._tables(names):
            try:
                self._database.prepare(self._stages[name].plan)
            except psycopg.Error as exc:
                if not is_of_table(exc) or not self._database.has_staging_right():
                    raise
                unfit[name] = exc
        return unfit

    def _tables(self, names: Iterable[str]) -> list[str]:
        """The tables that are written, parents first: one order for all workers."""
        wanted = set(names)
        for name in reversed(list(self._stages)):
            parent = self._stages[name].plan.record.declaration.parent
            if name in wanted and parent:
                wanted.add(parent.type)
        return [name for name in self._stages if name in wanted]

    def hold(self, groups: Groups, name: str, exc: psycopg.Error) -> None:
        """Hold the events of a table that does not fit, and of its children's; they are single ones."""
        verdict = verdict_on_table(exc)
        _log_held(name, exc)
        for table in (name, *(child for child, _ in self._children[name])):
            for event in groups.pop(table, Group()).events:
                event.end(verdict)

    def write(self, connection: Connection, groups: Groups, watch: Stopwatch, *, is_careful: bool) -> None:
        """
        Write the blocks and the events that have no verdict yet, parents before children.

        Args:
            connection: In the batch's transaction.
            groups: Events by type.
            watch: Told the stages.
            is_careful: Find culprits and end them, instead of raising.

        Raises:
            psycopg.Error: PostgreSQL objected; when careful, only to what is no event's fault.
        """
        for name in self._tables(groups):
            stage, group = self._stages[name], groups.get(name, Group())
            events = [event for event in group.events if event.verdict is None]
            watch.start("parents")
            tombstones = self._tombstones(connection, name, group.tombstones, events) if group.tombstones else []
            placeholders, deletes = self._parents(connection, name, Group(events, group.blocks, tombstones), groups)
            write = self._write_carefully if is_careful else self._write_table
            write(connection, stage, [*events, *tombstones, *placeholders], group.blocks, watch)
            if any(event.verdict for event in events):
                # A parent that was refused is missing after all: its children get a placeholder in its place.
                events = [event for event in events if event.verdict is None]
                missing, _ = self._parents(connection, name, Group(events, group.blocks, tombstones), groups)
                write(connection, stage, missing, (), watch)
            self._end_fallen(name, groups, deletes)

    def _tombstones(
        self, connection: Connection, name: str, tombstones: Sequence[Tombstone], events: Sequence[Event]
    ) -> list[Tombstone]:
        """
        Those that are written: not over a row that names somebody else by now, nor over one that is on hold.

        Rows whose children are to be emptied are noted, in this transaction.
        """
        record = self._stages[name].plan.record
        subject = record.declaration.subject
        said = ((event.key, event.data.get(subject)) for event in events) if subject else ()
        named = {key: subject_text(value) for key, value in said if value is not None}
        graves = look_at_graves(connection, self.registry, record, [Grave(t.key, t.version, t.subject) for t in tombstones])
        written, fresh = [], []
        for place, tombstone in enumerate(tombstones):
            is_others = tombstone.subject is not None and named.get(tombstone.key, tombstone.subject) != tombstone.subject
            if place in graves.spared or is_others:
                continue
            written.append(tombstone)
            if place not in graves.known:
                fresh.append(tombstone)
        if self._children[name]:
            note_erased(connection, name, {tombstone.key[0]: tombstone.version for tombstone in fresh})
        return written

    def _parents(self, connection: Connection, name: str, group: Group, groups: Groups) -> tuple[list[Placeholder], Deletes]:
        """
        What the children in this batch need of table `name`: the parents that are missing, and when others were deleted.

        Args:
            connection: In the batch's transaction.
            name: The parents' type.
            group: Which of them are in this batch.
            groups: All groups, the children among them.
        """
        by_key = self._wanted(name, groups)
        if not by_key:
            return [], Deletes()
        rows = connection.execute(self._stages[name].plan.parents_of, [list(by_key)]).fetchall()
        found = {key for key, _, _ in rows}
        deletes = Deletes()
        for key, version, event_id in rows:
            if version is not None:
                deletes.add(key, int(str(version)), is_erased=event_id == ERASED)
        for event in group.events:
            if event.is_delete:
                deletes.add(event.key[0], event.version)
        for tombstone in group.tombstones:
            deletes.add(tombstone.key[0], tombstone.version, is_erased=True)
        written = {comparable(event.key) for event in group.events}
        written.update((comparable(tombstone.key) for tombstone in group.tombstones), *(block.keys for block in group.blocks))
        return [item for key, item in by_key.items() if key not in found and comparable((key,)) not in written], deletes

    def _wanted(self, name: str, groups: Groups) -> dict[Any, Placeholder]:
        """The parents that are named by children in this batch."""
        by_key: dict[Any, Placeholder] = {}
        for child, column in self._children[name]:
            children = groups.get(child, Group())
            for event in children.events:
                if event.verdict is None and not event.is_delete:
                    key = event.data[column]
                    by_key.setdefault(key, Placeholder((key,))).children.append(event)
            for block in children.blocks:
                for key in _parents_in(block):
                    by_key.setdefault(key, Placeholder((key,)))
        return by_key

    def _end_fallen(self, name: str, groups: Groups, deletes: Deletes) -> None:
        """End the children that are not newer than their parent's delete."""
        if not deletes.versions:
            return
        for child, column in self._children[name]:
            children = groups.get(child, Group())
            if deletes.erased:
                refuse_children(children, column, {key: deletes.versions[key] for key in deletes.erased})
            supersede_fallen(children.events, children.blocks, column, deletes.versions)

    def _write_table(
        self, connection: Connection, stage: Stage, items: Sequence[Item], blocks: Sequence[Block], watch: Stopwatch
    ) -> None:
        plan = stage.plan
        watch.start("encode")
        items, staged = _encode(stage, items, blocks)
        if not staged.rows:
            return
        watch.start("copy")
        if staged.is_single and self._copy_new(connection, plan, staged):
            return
        cursor = connection.cursor()
        with cursor.copy(plan.copy) as copy:
            copy.write(staged.data)
        failpoints.hit("after_copy")
        watch.start("upsert")
        written = cursor.execute(plan.upsert_single if staged.is_single else plan.upsert, prepare=True).rowcount
        if written != staged.rows or not staged.is_plain:
            stamps = cursor.execute(plan.stamps_of_doubtful if staged.is_single else plan.stamps_of_staged)
            supersede(stamps.fetchall(), items, blocks, len(plan.record.key))

    def _copy_new(self, connection: Connection, plan: UpsertPlan, staged: Staged) -> bool:
        """Put rows straight into their table, if all seem to be new; whether they are in it: all of them, or none."""
        freshness = self._freshness[plan.record.name]
        if not freshness.is_likely():
            return False
        try:
            with connection.transaction(), connection.cursor().copy(plan.copy_new) as copy:
                copy.write(staged.data)
        except psycopg.errors.UniqueViolation:
            freshness.learn(were_new=False)
            return False
        except psycopg.errors.FeatureNotSupported:  # a table with row level security takes INSERT only
            freshness.give_up()
            return False
        freshness.learn(were_new=True)
        failpoints.hit("after_copy")
        return True

    def _write_carefully(
        self, connection: Connection, stage: Stage, items: Sequence[Item], blocks: Sequence[Block], watch: Stopwatch
    ) -> None:
        """Write what can be written; end what cannot, alone."""
        assert not blocks, "they are dissolved where care is needed"
        try:
            with connection.transaction():
                apart = self._write_search(connection, stage, items, watch)
                self._write_search(connection, stage, apart, watch, is_apart=True)
        except psycopg.Error as exc:
            if not is_of_table(exc):
                raise
            _log_held(stage.plan.record.name, exc)
            verdict = verdict_on_table(exc)
            for item in items:
                item.end(verdict)

    def _write_search(
        self, connection: Connection, stage: Stage, items: Sequence[Item], watch: Stopwatch, *, is_apart: bool = False
    ) -> list[Item]:
        """
        Write rows, one per key or, `is_apart`, one per event, and end those that are refused.

        Returns:
            The events of refused rows that are made of several; they have not ended.
        """
        watch.start("encode")
        items, staged = _encode(stage, items, is_apart=is_apart)
        if not items:
            return []
        watch.start("copy")
        search = Search(connection, stage.plan)
        search.fill(staged.data)
        failpoints.hit("after_copy")
        watch.start("upsert")
        rows = _rows(items, is_apart=is_apart)
        refused = [(rows[refusal.place], blame(refusal)) for refusal in search.run()]
        stamps = search.finish()
        for row, verdict in refused:
            for item in row if len(row) == 1 else ():
                item.end(verdict)
        again = [item for row, _ in refused if len(row) > 1 for item in row]
        left_out = {id(item) for row, _ in refused for item in row}
        supersede(stamps, [item for item in items if id(item) not in left_out], (), len(stage.plan.record.key))
        return again


def _parents_in(block: Block) -> set[Any]:
    """The parents of a block's events; those of refused ones are not needed."""
    if not block.fenced:
        return set(block.parents)
    return {key for place, key in enumerate(block.parents) if place not in block.fenced}


def _encode(
    stage: Stage, items: Sequence[Item], blocks: Sequence[Block] = (), *, is_apart: bool = False
) -> tuple[Sequence[Item], Staged]:
    """The items that can be written as text, and their lines and those of blocks; the other items are ended."""
    try:
        staged = stage.lines(items, blocks, is_apart=is_apart)
    except Unwritable:
        items = _without(items, stage.unwritable(items))
        staged = stage.lines(items, blocks, is_apart=is_apart)
    return _without(items, staged.culprits), staged


def _without(items: Sequence[Item], culprits: Sequence[Culprit]) -> Sequence[Item]:
    """End the culprits; the items that are left."""
    if not culprits:
        return items
    for item, why in culprits:
        item.end(Verdict(Outcome.DEAD, "invalid", one_line(why), column=why.column))
    ended = {id(item) for item, _ in culprits}
    return [item for item in items if id(item) not in ended]


def _rows(items: Sequence[Item], *, is_apart: bool) -> list[list[Item]]:
    """The items of each line that `Stage.lines` makes of them, in its order."""
    in_order = sorted(items, key=attrgetter("key"))
    if is_apart:
        return [[item] for item in in_order]
    return [list(row) for _, row in groupby(in_order, attrgetter("key"))]


def _log_held(name: str, exc: Exception) -> None:
    hint = "run `penstock migrate up`, or GRANT what is missing"
    logger.error("events of %s are held: %s; %s", name, one_line(exc), hint, extra={"action": "table_held"})
