"""
The tasks that run in the pool's children: `penstock.write_batch` and `penstock.probe`.

What is nobody's fault comes back as a value, `{"away": reason}`, never as an exception: Celery would reject or delete the
messages of a task that raised.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import psycopg
from celery import Celery
from celery.exceptions import Reject

from penstock_migrations.heads import is_at_heads
from penstock_migrations.packages import parse_locations
from penstock_producers.transports.tls_errors import say_tls_error
from penstock_schemas.registry import Registry
from penstock_worker.errors import ConfigurationError, DatabaseAway
from penstock_worker.ingest import failpoints
from penstock_worker.ingest.account import by_outcome
from penstock_worker.ingest.answers import ANSWERS, MAX_ANSWERS_CHARACTERS
from penstock_worker.ingest.blame import log_refusal, one_line, squeezed
from penstock_worker.ingest.decode import Decoded, refuse_whole
from penstock_worker.ingest.measures import MAX_MEASURES_CHARACTERS, MEASURES, measure
from penstock_worker.ingest.message import Message, RawMessage, unwrap
from penstock_worker.ingest.outcome import Outcome, Verdict
from penstock_worker.ingest.stopwatch import Stopwatch
from penstock_worker.ingest.write import Result, Writer
from penstock_worker.settings import Settings
from penstock_worker.store import suspects
from penstock_worker.store.connection import Connection, Database, connect_with
from penstock_worker.store.rehearsal import refuse_read_only, rehearse

__all__ = ["Child", "register_tasks"]

logger = logging.getLogger(__name__)

#: Characters of a batch's result as Celery brings it to the main process: answers and measures, and room for the counts.
MAX_RESULT_CHARACTERS = MAX_ANSWERS_CHARACTERS + MAX_MEASURES_CHARACTERS + 64 * 1024

#: How a batch is tried: with others, alone because it is a suspect, or alone again after a try that ended in order.
Mode = Literal["together", "alone", "alone_innocent"]


class Child:
    """What a pool child keeps between batches: its one database connection and the writer, made at first use."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self.settings, self.registry = settings, registry

    @cached_property
    def database(self) -> Database:
        """The connection."""
        return Database(connect_with(self.settings))

    @cached_property
    def writer(self) -> Writer:
        """The writer, over that connection."""
        return Writer(self.database, self.registry, self.settings)

    def write(self, messages: Sequence[RawMessage], mode: Mode) -> dict[str, Any]:
        """Write a batch; counts by outcome, or why the database did not take it."""
        # A batch is a hundred thousand objects without a cycle among them; looking for one took two fifths of the time.
        gc.disable()
        try:
            if mode == "together":
                failpoints.hit("message", messages)
                return _counts(self.writer.write(messages))
            return _counts(self._write_alone(messages[0], is_innocent=mode == "alone_innocent"))
        except DatabaseAway as exc:
            return {"away": str(exc)}
        except psycopg.Error as exc:
            return self._away(exc)
        finally:
            gc.enable()

    def _write_alone(self, message: RawMessage, *, is_innocent: bool) -> Result:
        writer, unwrapped = self.writer, unwrap(message) or Message(message.body)
        kills = suspects.begin(writer.database.connection(), unwrapped.id, is_innocent=is_innocent)
        if kills >= self.settings.redelivery_limit:
            detail = f"killed the process that read it {kills} times, alone in its batch"
            result = self._refuse(unwrapped, Verdict(Outcome.DEAD, "killed_its_reader", detail))
        else:
            failpoints.hit("message", [message])
            result = self._try(message, unwrapped)
        suspects.clear(writer.database.connection(), unwrapped.id)
        return result

    def _try(self, message: RawMessage, unwrapped: Message) -> Result:
        """Write one message; a bug that it meets is its own, and stops nobody else."""
        try:
            return self.writer.write([message])
        except (DatabaseAway, psycopg.Error):
            raise
        except Exception as exc:
            logger.exception("a message could not be written, it is held: %s", unwrapped.id, extra={"action": "message_held"})
            verdict = Verdict(Outcome.HELD, "unknown_error", squeezed(f"{type(exc).__name__}: {exc}"))
        try:
            return self._refuse(unwrapped, verdict)
        except (DatabaseAway, psycopg.Error):
            raise
        except Exception:
            # Not even that it is held can be noted for the producer: its bytes are kept, and the queue goes on.
            logger.exception(
                "a message cannot be accounted for, it is held without its headers: %s",
                unwrapped.id,
                extra={"action": "message_held"},
            )
            return self._refuse(Message(unwrapped.body), verdict)

    def _refuse(self, message: Message, verdict: Verdict) -> Result:
        decoded = Decoded()
        refuse_whole(decoded, message, verdict)
        self.writer.store(decoded, Stopwatch())
        measures = measure(decoded, self.writer.validators.records, time.time_ns() // 1_000)
        return Result(by_outcome(measures.events), {}, measures=measures.line())

    def probe(self) -> dict[str, Any]:
        """Whether the database would take a batch; one that answers may be a standby, or full."""
        try:
            rehearse(self.database.connection())
        except psycopg.Error as exc:
            return self._away(exc)
        return {"ok": True}

    def look(self, *, asks_migrations: bool) -> dict[str, Any]:
        """Whether the database is there, at little cost, and if asked, whether it is migrated."""
        try:
            try:
                refuse_read_only(self.database.connection())
            except psycopg.OperationalError:
                # It may have been cut while nobody used it, by a restart or a firewall, which is no outage.
                self.database.close()
                refuse_read_only(self.database.connection())
            why = self._find_unmigrated(self.database.connection()) if asks_migrations else None
        except psycopg.Error as exc:
            return self._away(exc)
        return {"ok": True} if why is None else {"ok": True, "unmigrated": why}

    def _find_unmigrated(self, connection: Connection) -> str | None:
        try:
            locations = parse_locations(self.settings.migrations)
            if is_at_heads(connection, self.registry, locations):
                return None
            from penstock_migrations.run import check_migrated  # see `heads`

            check_migrated(connection, self.registry, locations)
        except (ConfigurationError, psycopg.errors.InsufficientPrivilege) as exc:
            return one_line(exc)
        return None

    def _away(self, exc: psycopg.Error) -> dict[str, Any]:
        self.database.close()
        log_refusal(exc)
        return {"away": say_tls_error(exc, "PENSTOCK_DATABASE") or one_line(exc)}


def register_tasks(app: Celery, settings: Settings, registry: Registry) -> None:
    """Make the tasks of the app."""
    child = Child(settings, registry)

    @app.task(  # type: ignore[untyped-decorator]  # celery has no types
        name="penstock.write_batch",
        shared=False,  # with other applications of the process: this one's task is bound to this one's settings
        acks_late=True,
        reject_on_worker_lost=True,
        acks_on_failure=False,
        acks_on_timeout=False,
        ignore_result=True,
        time_limit=settings.batch_time_limit_s,
        # What is cut off here cannot be read: it would look as if the database were away.
        resultrepr_maxsize=MAX_RESULT_CHARACTERS,
    )
    def write_batch(messages: list[tuple[Any, ...]], mode: Mode) -> dict[str, Any]:
        try:
            return child.write([RawMessage(*message) for message in messages], mode)
        except Exception as exc:
            logger.exception("a batch could not be written; it is tried again in halves", extra={"action": "batch_failed"})
            raise Reject(exc, requeue=True) from exc

    @app.task(  # type: ignore[untyped-decorator]  # celery has no types
        name="penstock.probe",
        shared=False,
        acks_late=True,
        reject_on_worker_lost=True,
        acks_on_failure=False,
        ignore_result=True,
        time_limit=settings.batch_time_limit_s,
    )
    def probe(is_look: bool = False, asks_migrations: bool = False) -> dict[str, Any]:
        return child.look(asks_migrations=asks_migrations) if is_look else child.probe()

    del write_batch, probe  # they live in app.tasks


def _counts(result: Result) -> dict[str, Any]:
    counts: dict[str, Any] = {**result.outcomes, "in_blocks": result.in_blocks, "ms": result.stage_ms}
    answers = {ANSWERS: result.answers} if result.answers else {}
    return counts | {MEASURES: result.measures} | answers
