"""
Write a batch: from messages to committed rows, dead letters and ledger, in one transaction.

The usual batch goes through in one try per table. When PostgreSQL objects to something in it, the transaction is tried again
*carefully*: with savepoints, each table in halves, until the culprit is alone and ends as a dead letter. What is not the
events' fault is raised as `DatabaseAway`, and nothing was stored.
"""

from __future__ import annotations

import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg

from penstock_schemas.registry import Registry
from penstock_worker.errors import DatabaseAway
from penstock_worker.ingest import failpoints
from penstock_worker.ingest.account import count_outcomes, entries_of, hold, letters_of, sightings_of
from penstock_worker.ingest.decode import Decoded, decode
from penstock_worker.ingest.judge import judge
from penstock_worker.ingest.message import Event, RawMessage
from penstock_worker.ingest.outcome import Outcome, Verdict
from penstock_worker.ingest.reduce import stamp_text
from penstock_worker.ingest.stage import Placeholder, Stage
from penstock_worker.ingest.validate import Validators
from penstock_worker.settings import Settings
from penstock_worker.store.connection import Connection, Database, connect_with
from penstock_worker.store.dead_letters import fingerprints_over_rate, record_letters
from penstock_worker.store.ledger import record_entries, record_sightings
from penstock_worker.store.sqlstate import Answer, answer_to
from penstock_worker.store.upsert import UpsertPlan

__all__ = ["Result", "Writer"]

logger = logging.getLogger(__name__)

Item = Event | Placeholder

#: Tries of a transaction that lost a deadlock or a lock wait; after them the batch goes back to the broker.
MAX_TRIES = 10
#: Producers remembered as known to the database, so that they are not said again with every batch.
MAX_KNOWN_EPOCHS = 10_000
#: Seconds of the first pause between tries; it doubles, up to a second, and half of it is random.
FIRST_PAUSE_S = 0.01


@dataclass(frozen=True)
class Result:
    """Events by outcome, and milliseconds by stage."""

    outcomes: dict[str, int]
    stage_ms: dict[str, float]


@dataclass
class Stopwatch:
    """Milliseconds by stage; a stage lasts until the next one is named."""

    now: Callable[[], float] = time.perf_counter
    stage_ms: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _stage: str = ""
    _since: float = 0.0

    def start(self, stage: str) -> None:
        """End the running stage and begin another."""
        at = self.now()
        if self._stage:
            self.stage_ms[self._stage] += (at - self._since) * 1000
        self._stage, self._since = stage, at


class Writer:
    """
    Writes batches over one database connection; one per process.

    Args:
        database: The process's connection.
        registry: The record types.
        settings: Limits and rates.
        sleep: Waits between tries, in seconds.
    """

    def __init__(
        self, database: Database, registry: Registry, settings: Settings, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.database = database
        self.settings = settings
        self.validators = Validators(registry)
        self.stages = {name: Stage(UpsertPlan(record)) for name, record in registry.items()}
        self._sleep = sleep
        self._known_epochs: set[UUID] = set()

    @classmethod
    def of(cls, settings: Settings, registry: Registry) -> Writer:
        """A writer with a connection of its own, not opened yet."""
        return cls(Database(connect_with(settings)), registry, settings)

    def write(self, messages: Iterable[RawMessage]) -> Result:
        """
        Store the events of messages.

        Returns:
            What became of them; when it returns, that is committed.

        Raises:
            DatabaseAway: Nothing was stored, and no event is to blame.
        """
        watch = Stopwatch()
        watch.start("decode")
        decoded = decode(messages, self.validators)
        self.store(decoded, watch)
        watch.start("")
        return Result(count_outcomes(decoded), {stage: round(ms, 1) for stage, ms in watch.stage_ms.items()})

    def store(self, decoded: Decoded, watch: Stopwatch) -> None:
        """Store what was decoded, in as many tries as it takes."""
        original = [(refused, refused.verdict) for refused in decoded.refused]
        is_careful = False
        for attempt in range(MAX_TRIES):
            for event in decoded.events:
                event.outcome, event.verdict = Outcome.STORED, None
            for refused, verdict in original:
                refused.verdict = verdict
            try:
                self._transaction(decoded, watch, is_careful=is_careful)
            except (psycopg.Error, ValueError) as exc:
                is_careful = self._next_try(exc, attempt) or is_careful
            else:
                return
        raise DatabaseAway(f"the batch did not go through in {MAX_TRIES} tries")

    def _next_try(self, exc: psycopg.Error | ValueError, attempt: int) -> bool:
        """Prepare another try, and say whether it must be a careful one."""
        answer = answer_to(exc) if isinstance(exc, psycopg.Error) else Answer.EVENT
        if answer in (Answer.AWAY, Answer.REFUSED):
            self.database.close()
            raise DatabaseAway(_one_line(exc)) from exc
        if answer is Answer.RECONNECT:
            self.database.close()
        logger.info("batch tried again: %s", _one_line(exc), extra={"action": "batch_retried", "attempt": attempt})
        if answer in (Answer.RETRY, Answer.RECONNECT):
            self._sleep(min(1.0, FIRST_PAUSE_S * 2**attempt) * random.uniform(0.5, 1))  # noqa: S311  # jitter
            return False
        return True

    def _transaction(self, decoded: Decoded, watch: Stopwatch, *, is_careful: bool) -> None:
        groups: dict[str, list[Event]] = defaultdict(list)
        for event in decoded.events:
            groups[event.record.name].append(event)
        watch.start("prepare")
        self._prepare(groups)
        with self.database.transaction() as connection:
            judge(decoded.events, self._now_us(connection), self.settings)
            self._write_tables(connection, groups, watch, is_careful=is_careful)
            watch.start("account")
            self._account(connection, decoded)
            failpoints.hit("before_commit")
            watch.start("commit")
        failpoints.hit("after_commit")
        if len(self._known_epochs) > MAX_KNOWN_EPOCHS:
            self._known_epochs.clear()
        self._known_epochs.update(envelope.epoch for envelope in decoded.envelopes if envelope.epoch)

    def _now_us(self, connection: Connection) -> int:
        """The database's clock, in microseconds: the one clock that events of all producers are held against."""
        (now,) = connection.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").fetchone() or (0,)
        return int(str(now))

    def _prepare(self, groups: dict[str, list[Event]]) -> None:
        """Make the staging tables; the events of a table that does not fit are held."""
        for name in self._tables(groups):
            try:
                self.database.prepare(self.stages[name].plan)
            except psycopg.Error as exc:
                if answer_to(exc) is not Answer.TABLE:
                    raise
                self._hold_table(name, groups, exc)

    def _tables(self, groups: dict[str, list[Event]]) -> list[str]:
        """The tables that are written, parents first: one order for all workers."""
        wanted = set(groups)
        for name in reversed(list(self.stages)):
            parent = self.stages[name].plan.record.declaration.parent
            if name in wanted and parent:
                wanted.add(parent.type)
        return [name for name in self.stages if name in wanted]

    def _hold_table(self, name: str, groups: dict[str, list[Event]], exc: psycopg.Error) -> None:
        verdict = _verdict(exc, Outcome.HELD, "table_does_not_fit")
        logger.error("events of %s are held: %s; run `penstock migrate up`", name, _one_line(exc))
        for table in (name, *self._children(name)):
            for event in groups.pop(table, ()):
                event.end(verdict)

    def _children(self, name: str) -> list[str]:
        return [
            child
            for child, stage in self.stages.items()
            if stage.plan.record.declaration.parent and stage.plan.record.declaration.parent.type == name
        ]

    def _write_tables(
        self, connection: Connection, groups: dict[str, list[Event]], watch: Stopwatch, *, is_careful: bool
    ) -> None:
        for name in self._tables(groups):
            stage = self.stages[name]
            events = [event for event in groups.get(name, ()) if event.verdict is None]
            watch.start("parents")
            placeholders, deleted = self._parents(connection, name, events, groups)
            items: list[Item] = [*events, *placeholders]
            if is_careful:
                self._write_carefully(connection, stage, items, watch)
            elif items:
                self._write_table(connection, stage, items, watch)
            self._supersede_fallen(name, groups, deleted)

    def _parents(
        self, connection: Connection, name: str, events: list[Event], groups: dict[str, list[Event]]
    ) -> tuple[list[Placeholder], dict[Any, int]]:
        """What the children in this batch need of table `name`: the parents that are missing, and when others were deleted."""
        by_key: dict[Any, Placeholder] = {}
        for child in self._children(name):
            parent = self.stages[child].plan.record.declaration.parent
            assert parent is not None, "a child has a parent"
            for event in groups.get(child, ()):
                if event.verdict is None and not event.is_delete:
                    key = event.data[parent.field]
                    by_key.setdefault(key, Placeholder((key,))).children.append(event)
        if not by_key:
            return [], {}
        rows = connection.execute(self.stages[name].plan.parents_of, [list(by_key)]).fetchall()
        found = {row[0]: row[1] for row in rows}
        written = {event.key[0] for event in events}
        deleted = {key: int(str(version)) for key, version in found.items() if version is not None}
        for event in events:
            if event.is_delete:
                deleted[event.key[0]] = max(event.version, deleted.get(event.key[0], 0))
        return [item for key, item in by_key.items() if key not in found and key not in written], deleted

    def _supersede_fallen(self, name: str, groups: dict[str, list[Event]], deleted: dict[Any, int]) -> None:
        """A child that is not newer than its parent's delete is written, for its lowest version counts, but is not seen."""
        if not deleted:
            return
        for child in self._children(name):
            parent = self.stages[child].plan.record.declaration.parent
            for event in groups.get(child, ()):
                if parent and not event.is_delete and event.version <= deleted.get(event.data[parent.field], -1):
                    event.outcome = Outcome.SUPERSEDED if event.verdict is None else event.outcome

    def _write_table(self, connection: Connection, stage: Stage, items: Sequence[Item], watch: Stopwatch) -> None:
        plan = stage.plan
        watch.start("encode")
        staged = stage.lines(items)
        watch.start("copy")
        cursor = connection.cursor()
        with cursor.copy(plan.copy) as copy:
            copy.write(staged.data)
        failpoints.hit("after_copy")
        watch.start("upsert")
        written = cursor.execute(plan.upsert, prepare=True).rowcount
        if written != staged.rows or not staged.is_simple:
            _supersede(cursor.execute(plan.stamps_of_staged).fetchall(), items, len(plan.record.key))

    def _write_carefully(self, connection: Connection, stage: Stage, items: Sequence[Item], watch: Stopwatch) -> None:
        """Write what can be written; end what cannot, alone."""
        if not items:
            return
        try:
            with connection.transaction():
                connection.execute(stage.plan.clear)
                self._write_table(connection, stage, items, watch)
        except (psycopg.Error, ValueError) as exc:
            verdict = _blame(exc)
            if verdict.reason == "table_does_not_fit" or len(items) == 1:
                for item in items:
                    item.end(verdict)
                return
            middle = len(items) // 2
            self._write_carefully(connection, stage, items[:middle], watch)
            self._write_carefully(connection, stage, items[middle:], watch)

    def _account(self, connection: Connection, decoded: Decoded) -> None:
        letters = letters_of(decoded)
        hold(decoded, letters, fingerprints_over_rate(connection, letters, self.settings.dead_letter_rate_per_minute))
        record_letters(connection, letters)
        record_entries(connection, entries_of(decoded))
        record_sightings(connection, sightings_of(decoded, self._known_epochs))


def _supersede(rows: Iterable[tuple[Any, ...]], items: Sequence[Item], key_length: int) -> None:
    """Mark the events that left no trace: no column of their row holds their stamp."""
    traces: dict[tuple[Any, ...], set[str]] = {}
    for row in rows:
        version, event, deleted_version, deleted_event, stamps = row[key_length:]
        trace = {stamp[-48:] for stamp in (stamps or {}).values()}
        trace |= {stamp_text((v, str(e))) for v, e in ((version, event), (deleted_version, deleted_event)) if v is not None}
        traces[row[:key_length]] = trace
    for item in items:
        if isinstance(item, Event) and stamp_text(item.stamp) not in traces.get(item.key, ()):
            item.outcome = Outcome.SUPERSEDED


def _blame(exc: psycopg.Error | ValueError) -> Verdict:
    """The verdict on the culprit; errors that are nobody's fault are raised on."""
    if not isinstance(exc, psycopg.Error):
        return Verdict(Outcome.DEAD, "invalid", _one_line(exc))
    answer = answer_to(exc)
    if answer is Answer.EVENT:
        return _verdict(exc, Outcome.DEAD, "refused_by_database")
    if answer is Answer.OURS:
        return _verdict(exc, Outcome.HELD, "constraint")
    if answer is Answer.TABLE:
        return _verdict(exc, Outcome.HELD, "table_does_not_fit")
    if answer is Answer.UNKNOWN:
        return _verdict(exc, Outcome.HELD, "unknown_error")
    raise exc


def _verdict(exc: psycopg.Error, outcome: Outcome, reason: str) -> Verdict:
    diagnostics = exc.diag
    return Verdict(outcome, reason, _one_line(exc), exc.sqlstate, diagnostics.constraint_name, diagnostics.column_name)


def _one_line(exc: Exception) -> str:
    return " ".join(str(exc).split())[:500]
