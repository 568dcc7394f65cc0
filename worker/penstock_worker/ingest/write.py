"""
Write a batch: from messages to committed rows, dead letters and ledger, in one transaction.

The usual batch goes through in one try per table. When PostgreSQL objects to something in it, the transaction is tried again
*carefully*: row by row where it must be, until each culprit is alone and ends as a dead letter. What is not the events' fault
is raised as `DatabaseAway`, and nothing was stored.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import cast
from uuid import UUID, uuid4

import psycopg

from penstock_schemas.answer import new_address
from penstock_schemas.registry import Registry
from penstock_worker.errors import CulpritUnknown, DatabaseAway
from penstock_worker.ingest import failpoints
from penstock_worker.ingest.account import by_outcome, entries_of, hold, letters_of, sightings_of
from penstock_worker.ingest.answers import answers_to
from penstock_worker.ingest.blame import is_of_table, log_refusal, one_line
from penstock_worker.ingest.block import Block
from penstock_worker.ingest.block_reader import BlockReader
from penstock_worker.ingest.claim import Claim
from penstock_worker.ingest.decode import Decoded, decode, dissolve, refuse_whole
from penstock_worker.ingest.fence import refuse_erased
from penstock_worker.ingest.groups import Groups, groups_of, with_repeated_keys
from penstock_worker.ingest.judge import judge, untimely
from penstock_worker.ingest.measures import measure
from penstock_worker.ingest.message import Envelope, Message, RawMessage
from penstock_worker.ingest.outcome import Outcome, Verdict
from penstock_worker.ingest.refuse_unread import refuse_unread
from penstock_worker.ingest.stage import Stage
from penstock_worker.ingest.stopwatch import Stopwatch
from penstock_worker.ingest.tables import Tables
from penstock_worker.ingest.validate import Validators
from penstock_worker.settings import Settings
from penstock_worker.store.connection import Connection, Database, connect_with
from penstock_worker.store.dead_letters import fingerprints_over_rate, record_letters
from penstock_worker.store.ledger import record_entries, record_sightings
from penstock_worker.store.privacy.fences import Fences
from penstock_worker.store.sqlstate import Answer, answer_to
from penstock_worker.store.upsert import UpsertPlan

__all__ = ["Result", "Writer"]

logger = logging.getLogger(__name__)

#: Tries of a transaction that lost a deadlock or a lock wait; after them the batch goes back to the broker.
MAX_TRIES = 10
#: Careful tries that may fail for what is not a lock: they have ended every culprit, so that it is no row that is objected to.
MAX_CAREFUL_TRIES = 3
#: Producers remembered as known to the database, so that they are not said again with every batch.
MAX_KNOWN_EPOCHS = 10_000
#: Seconds of the first pause between tries; it doubles, up to a second, and half of it is random.
FIRST_PAUSE_S = 0.01


@dataclass(frozen=True)
class Result:
    """
    Events by outcome, milliseconds by stage, what there is to answer (see `answers`) and to measure (see `measures`).

    `in_blocks` is how many of the events went as columns all the way (see `block`): next to all of them, or writing is slow.
    """

    outcomes: dict[str, int]
    stage_ms: dict[str, float]
    answers: str = ""
    in_blocks: int = 0
    measures: str = ""


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
        self.blocks = BlockReader(self.validators)
        self.tables = Tables(database, {name: Stage(UpsertPlan(record)) for name, record in registry.items()}, registry)
        self.fences = Fences()
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
            CulpritUnknown: Nothing was stored, and which event is to blame does not show. Fewer messages at a time tell.
        """
        watch = Stopwatch()
        watch.start("decode")
        decoded = decode(messages, self.validators, self.blocks)
        answers = self.store(decoded, watch)
        watch.start("")
        stage_ms = {stage: round(ms, 1) for stage, ms in watch.stage_ms.items()}
        measures = measure(decoded, self.validators.records, time.time_ns() // 1_000)
        return Result(by_outcome(measures.events), stage_ms, answers, sum(map(len, decoded.blocks)), measures.line())

    def store(self, decoded: Decoded, watch: Stopwatch, claim: Claim | None = None) -> str:
        """
        Store what was decoded, in as many tries as it takes. What there is to answer, from the try that succeeded.

        A `claim` is asked for what does not come from the broker; it notes itself how that ended, and there is no answer.
        """
        original = [(refused, refused.verdict) for refused in decoded.refused]
        objections = 0
        for attempt in range(MAX_TRIES):
            try:
                return self._transaction(decoded, watch, claim, is_careful=objections > 0)
            except (psycopg.Error, ValueError) as exc:
                objections += self._next_try(exc, attempt)
                if objections > MAX_CAREFUL_TRIES:
                    raise self._given_up(exc) from exc
            if objections:
                dissolve(decoded, self.validators, _envelopes(decoded.blocks))
            for block in decoded.blocks:
                block.superseded.clear()
                block.fenced.clear()
            for event in decoded.events:
                event.outcome, event.verdict = Outcome.STORED, None
            for refused, verdict in original:
                refused.verdict = verdict
        raise DatabaseAway(f"the batch did not go through in {MAX_TRIES} tries")

    def _next_try(self, exc: psycopg.Error | ValueError, attempt: int) -> bool:
        """Prepare another try, and say whether it must be a careful one."""
        answer = answer_to(exc) if isinstance(exc, psycopg.Error) else Answer.EVENT
        if isinstance(exc, psycopg.Error) and answer in (Answer.AWAY, Answer.REFUSED):
            self.database.close()
            log_refusal(exc)
            raise DatabaseAway(one_line(exc)) from exc
        if answer in (Answer.RECONNECT, Answer.TABLE):
            # With the connection go its staging tables: made anew, they show which table does not fit any more.
            self.database.close()
        logger.info("batch tried again: %s", one_line(exc), extra={"action": "batch_retried", "attempt": attempt})
        if answer in (Answer.RETRY, Answer.RECONNECT):
            self._sleep(min(1.0, FIRST_PAUSE_S * 2**attempt) * random.uniform(0.5, 1))  # noqa: S311  # jitter
            return False
        return True

    def _given_up(self, exc: psycopg.Error | ValueError) -> DatabaseAway | CulpritUnknown:
        """
        What careful tries end with. They hold the events of record types' tables that do not fit; so it is Penstock's own.

        One of those that lacks something refuses every batch. If it takes one in which nothing is odd, it is this batch.
        """
        trouble = self._own_trouble() if is_of_table(exc) else None
        if trouble is None:
            return CulpritUnknown(one_line(exc))
        log_refusal(trouble)
        return DatabaseAway(one_line(trouble))

    def _own_trouble(self) -> psycopg.Error | None:
        """What Penstock's own tables say to a dead letter, a ledger entry, a new producer and a query; it is rolled back."""
        decoded, epoch = Decoded(), uuid4()
        message = Message(b"", headers={"epoch": str(epoch), "seq": 0, "count": 1})
        refuse_whole(decoded, message, Verdict(Outcome.DEAD, "rehearsal", "rolled back"))
        decoded.envelopes.append(Envelope(message, epoch=epoch, reply_to=new_address(), query=[(0, 0)]))
        try:
            with self.database.transaction(is_rehearsal=True) as connection:
                self._begin(connection)
                self._account(connection, decoded, None)
        except psycopg.Error as exc:
            self.database.close()
            return exc
        return None

    def _transaction(self, decoded: Decoded, watch: Stopwatch, claim: Claim | None, *, is_careful: bool) -> str:
        watch.start("prepare")
        fitting = self._fitting(decoded)
        with self.database.transaction(is_rehearsal=claim is not None and claim.is_rehearsal) as connection:
            if claim:
                decoded = claim.take(connection, decoded)
            groups = self._groups(decoded, fitting, self._begin(connection))
            self.tables.write(connection, groups, watch, is_careful=is_careful)
            watch.start("account")
            if not self.fences.is_empty:
                refuse_unread(connection, decoded, self.fences, self.tables.registry)
            answers = self._account(connection, decoded, claim)
            failpoints.hit("before_commit")
            watch.start("commit")
        failpoints.hit("after_commit")
        if claim is None:
            self._know(decoded)
        return answers

    def _fitting(self, decoded: Decoded) -> set[str]:
        """Prepare the tables; the types of those that fit. The events of the others are held."""
        groups = groups_of(decoded.events, decoded.blocks)
        unfit = self.tables.prepare(groups)
        if unfit and decoded.blocks:
            dissolve(decoded, self.validators, _envelopes(decoded.blocks))
            groups = groups_of(decoded.events, ())
        for name, exc in unfit.items():
            self.tables.hold(groups, name, exc)
        return set(groups)

    def _groups(self, decoded: Decoded, fitting: set[str], now_us: int) -> Groups:
        """What is written, by table; what time forbids has ended, and what must be looked at singly is in no block any more."""
        groups = groups_of(decoded.events, decoded.blocks)
        doubtful = [*with_repeated_keys(groups), *untimely(decoded.blocks, now_us, self.settings)]
        if doubtful:
            dissolve(decoded, self.validators, doubtful)
            groups = groups_of(decoded.events, decoded.blocks)
        groups = {name: group for name, group in groups.items() if name in fitting}
        if not self.fences.is_empty:
            refuse_erased(groups, self.fences)
        judge(groups, now_us, self.settings)
        return groups

    def _know(self, decoded: Decoded) -> None:
        if len(self._known_epochs) > MAX_KNOWN_EPOCHS:
            self._known_epochs.clear()
        # A query is no sighting: its epoch may be one that no event ever came from.
        self._known_epochs.update(envelope.epoch for envelope in decoded.envelopes if envelope.epoch and not envelope.query)

    def _begin(self, connection: Connection) -> int:
        """
        Let erasures see the transaction, and know the fences: first of all, lest it know less than it writes after.

        Returns:
            The database's clock, in microseconds: the one clock that events of all producers are held against.
        """
        row = connection.execute("SELECT now_us, erasures FROM penstock.begin_batch()").fetchone()
        now_us, erasures = cast("tuple[int, int | None]", row)
        self.fences.refresh(connection, erasures)
        return now_us

    def _account(self, connection: Connection, decoded: Decoded, claim: Claim | None) -> str:
        if claim:
            claim.account(connection, decoded)
            return ""
        lettered = letters_of(decoded)
        letters = [letter for letter, _ in lettered]
        hold(lettered, fingerprints_over_rate(connection, letters, self.settings.dead_letter_rate_per_minute))
        record_letters(connection, letters)
        record_entries(connection, entries_of(decoded))
        record_sightings(connection, sightings_of(decoded, self._known_epochs))
        # Last: a query must find the entries of its own batch.
        return answers_to(connection, decoded)


def _envelopes(blocks: Iterable[Block]) -> Iterator[Envelope]:
    for block in blocks:
        yield from block.envelopes
