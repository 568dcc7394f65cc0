"""`penstock worker`: consume events and write them, run maintenance, in the foreground."""

from __future__ import annotations

import enum
import os
from typing import Annotated

import typer

from penstock_producers.transports.tls_errors import say_tls_error
from penstock_worker.cli.replace import check_broker_tls, replace_by
from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import Settings, load_settings
from penstock_worker.stack.commands import worker_command

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("worker")(worker)


class Only(enum.StrEnum):
    """What a worker can be for."""

    INGEST = "ingest"
    MAINTENANCE = "maintenance"


def worker(
    only: Annotated[
        Only | None,
        typer.Option(help="Only consume events, or only run maintenance. Default: PENSTOCK_WORKER_ONLY, else both."),
    ] = None,
    concurrency: Annotated[int | None, typer.Option("--concurrency", "-c", min=1, help="Pool children.")] = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="The node's name; unique by default.")] = None,
    pool: Annotated[str, typer.Option(help="The kind of pool; prefork is the only one.")] = "prefork",
) -> None:
    """
    Run one Celery worker, which writes events into the database and runs maintenance.

    SIGTERM finishes what runs and gives the rest back. Beside workers `--only ingest`, one or two `--only maintenance` keep
    long jobs away from the pool children that write events.
    """
    if pool != "prefork":
        raise ConfigurationError(
            f"the pool {pool!r} cannot run batches: a killed batch must not take its worker along; use prefork"
        )
    given = {"concurrency": concurrency, "worker_only": only and only.value}
    settings = load_settings(**{option: value for option, value in given.items() if value is not None})
    _check_database(settings)
    check_broker_tls(settings)
    # The pid stays the same through the replacement, so the name is unique on this host.
    replace_by(worker_command(settings, name or f"penstock-{os.getpid()}@%h"), settings)


def _check_database(settings: Settings) -> None:
    """
    Refuse what waiting cannot cure: a wrong password or name, a database without our tables.

    A database that is away is not among it: the worker starts, waits and resumes.
    """
    import psycopg

    from penstock_migrations.packages import parse_locations
    from penstock_migrations.run import check_migrated
    from penstock_worker.store.retention.policy import registry_for

    try:
        connection = psycopg.connect(settings.database, connect_timeout=max(2, round(settings.connect_timeout_s)))
    except psycopg.OperationalError as exc:
        if _is_away(exc):
            typer.echo("penstock: the database is away, the worker waits for it", err=True)
            return
        raise
    with connection:
        check_migrated(connection, registry_for(settings), parse_locations(settings.migrations))


def _is_away(exc: Exception) -> bool:
    # A connection that was refused by the server itself says why; libpq's own words for it come without a code.
    text = str(exc)
    return not any(words in text for words in ("authentication failed", "does not exist", "no pg_hba.conf entry")) and (
        say_tls_error(exc, "PENSTOCK_DATABASE") is None
    )
