"""`penstock status`: what waits, what is stored, what is dead, who sends and who works."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import kombu.exceptions
import typer
from kombu.connection import Connection
from rich.console import Console
from rich.table import Table

from penstock_producers.transports.tls import broker_connection
from penstock_producers.transports.tls_errors import say_tls_error
from penstock_schemas import load_registry
from penstock_worker.cli.output import plain, print_json
from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import Settings, load_settings

if TYPE_CHECKING:
    from penstock_worker.store.queries import ProducerSeen

__all__ = ["register"]

#: How long the broker has to take a connection.
BROKER_CONNECT_S = 3.0
#: Producers in the table for people; `--json` has more.
PRODUCERS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """A worker; `answers` is false for one that is known by its health file only. `trouble` says why it stands still."""

    name: str
    answers: bool
    paused_why: str | None
    trouble: str | None


@dataclass(frozen=True, slots=True)
class Status:
    """What `--json` prints; `last_seen_s` is the time since a worker last wrote a batch, None before the first."""

    queue: str
    waiting_messages: int
    workers: list[WorkerSeen]
    rows: dict[str, int]
    outcomes: dict[str, int]
    dead_letters: dict[str, int]
    last_seen_s: float | None
    producers: list[ProducerSeen] = field(default_factory=list)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("status")(status)


def status(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Tell what waits, what is stored, what is dead, who sends and who works."""
    found = look(load_settings())
    if as_json:
        print_json(asdict(found))
    else:
        _show(found, Console())


def look(settings: Settings) -> Status:
    """
    Ask the database, the broker and the workers.

    Raises:
        ConfigurationError: The database or the broker cannot be reached, or the database is not migrated.
    """
    from penstock_worker.store import queries

    registry = load_registry(settings.records)
    with queries.open_reader(settings) as reader:
        rows = queries.count_rows(reader, registry)
        outcomes = queries.count_outcomes(reader)
        letters = queries.count_letters(reader)
        producers = queries.list_producers(reader)
    with _broker(settings) as connection:
        waiting = _waiting(connection, settings.queue)
    workers = _workers(settings)
    age = (datetime.now(UTC) - producers[0].last_seen).total_seconds() if producers else None
    return Status(settings.queue, waiting, workers, rows, outcomes, letters, age, producers)


def _broker(settings: Settings) -> Connection:
    connection = broker_connection(settings.broker, connect_timeout=BROKER_CONNECT_S)
    try:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=BROKER_CONNECT_S)
    except (*connection.connection_errors, *connection.channel_errors, kombu.exceptions.OperationalError) as exc:
        connection.release()
        reason = say_tls_error(exc) or (str(exc).splitlines() or [type(exc).__name__])[0]
        raise ConfigurationError(f"the broker cannot be reached: {reason}; check PENSTOCK_BROKER_URL") from exc
    return connection


def _waiting(connection: Connection, queue: str) -> int:
    """Messages that no worker has taken yet; a queue that nobody declared yet is empty."""
    channel = connection.channel()
    with suppress(*connection.channel_errors):
        return int(channel.queue_declare(queue=queue, passive=True).message_count)
    return 0


def _workers(settings: Settings) -> list[WorkerSeen]:
    """Those that consume events: who answers, and who of this folder does not, as a worker whose event loop hangs cannot."""
    from penstock_worker.health import read_health
    from penstock_worker.queue_look import workers_stats

    answers = workers_stats(settings)
    seen = {
        name: WorkerSeen(name, answers=True, paused_why=step.get("paused_why"), trouble=step.get("stalled_why"))
        for name, step in answers.items()
    }
    now = time.time()
    for health in read_health(settings.health_folder, settings.queue):
        if health.does != "ingest":
            continue
        trouble = health.trouble(now) or "it does not answer"
        seen.setdefault(health.worker, WorkerSeen(health.worker, answers=False, paused_why=health.paused_why, trouble=trouble))
    return sorted(seen.values(), key=lambda worker: worker.name)


def _show(found: Status, console: Console) -> None:
    seen = "never" if found.last_seen_s is None else f"{found.last_seen_s:,.0f} s ago"
    console.print(f"{found.queue}: {found.waiting_messages:,} messages wait, last batch {seen}")
    console.print(f"workers: {', '.join(map(_of_worker, found.workers)) or 'none answers'}")
    console.print(_counts("rows visible", found.rows))
    console.print(_counts("events by outcome", found.outcomes))
    console.print(_counts("dead letters", found.dead_letters))
    table = Table("producer", "events", "last seen", "closed", title="producers")
    for producer in found.producers[:PRODUCERS_SHOWN]:
        closed = "yes" if producer.is_closed else "no"
        table.add_row(plain(producer.producer), f"{producer.high_water:,}", f"{producer.last_seen:%F %T}", closed)
    console.print(table)


def _of_worker(worker: WorkerSeen) -> str:
    name = plain(worker.name)
    if worker.trouble:
        return f"{name} STANDS STILL ({plain(worker.trouble)})"
    return f"{name} (paused, {plain(worker.paused_why)})" if worker.paused_why else name


def _counts(title: str, counts: dict[str, int]) -> Table:
    table = Table(title=title, show_header=False, min_width=40)
    table.add_column()
    table.add_column(justify="right")
    for name, number in counts.items():
        table.add_row(name, f"{number:,}")
    return table
