"""`penstock retention`: what is kept how long, what goes when, and what must not go."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from penstock_worker.cli.by_hand import run_by_hand
from penstock_worker.cli.output import plain, print_json
from penstock_worker.settings import load_settings

if TYPE_CHECKING:
    from penstock_schemas.registry import Registry
    from penstock_worker.maintenance.retention import Plan
    from penstock_worker.store.connection import Connection
    from penstock_worker.store.legal_holds import LegalHold
    from penstock_worker.store.retention.figures import TypePlan

__all__ = ["register"]

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_By = Annotated[str | None, typer.Option(metavar="NAME", help="Who does it, in place of this account's name.")]

_app = typer.Typer(no_args_is_help=True, help="What is kept how long: see what would go, purge by hand, hold what must stay.")


def register(app: typer.Typer) -> None:
    """Add the command group."""
    app.add_typer(_app, name="retention")


@_app.command("plan")
def plan(as_json: _Json = False) -> None:
    """Show what would go now, per type, and when the next ones are due."""
    from penstock_worker.maintenance.retention import make_plan
    from penstock_worker.store.queries import open_reader
    from penstock_worker.store.retention.policy import registry_for
    from penstock_worker.store.retention.rules import Rules

    settings = load_settings()
    rules = Rules(registry_for(settings), datetime.now(UTC), timedelta(days=settings.tombstone_days))
    with open_reader(settings) as reader:
        found = make_plan(reader, settings, rules)
    if as_json:
        print_json({"at": rules.now, "types": [_type_as_json(one) for one in found.types], "dead_letters": found.letters})
    else:
        _show_plan(found, Console())


@_app.command("run")
def run(
    is_dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would go, and delete nothing.")] = False,
    is_all: Annotated[bool, typer.Option("--all", help="Until nothing is left, however long it takes.")] = False,
    as_json: _Json = False,
) -> None:
    """Purge now, as beat would. Exit code 1 if another purge is under way."""
    run_by_hand("retention", is_dry_run=is_dry_run, as_json=as_json, arguments={"all" if is_all else "at_once": True})


@_app.command("holds")
def list_holds(
    with_released: Annotated[bool, typer.Option("--all", help="Also those that were released.")] = False,
    as_json: _Json = False,
) -> None:
    """List the legal holds."""
    from penstock_worker.store import legal_holds
    from penstock_worker.store.queries import open_reader

    with open_reader(load_settings()) as reader:
        holds = legal_holds.list_holds(reader, with_released=with_released)
    if as_json:
        print_json({"holds": [asdict(hold) for hold in holds]})
    elif holds:
        Console().print(_holds(holds))
    else:
        typer.echo("no legal hold")


@_app.command("hold")
def hold(
    reason: Annotated[str, typer.Option(help="Why, for whoever reads it in years.")],
    type: Annotated[str | None, typer.Option(help="The record type; without a key all its rows.")] = None,
    key: Annotated[list[str] | None, typer.Option(help="One row; given once for each column of the key.")] = None,
    subject: Annotated[str | None, typer.Option(metavar="ID", help="A person: every row that names them.")] = None,
    by: _By = None,
    as_json: _Json = False,
) -> None:
    """Keep rows from retention and erasure, and what hangs on them, until the hold is released."""
    from penstock_worker.store.legal_holds import place_hold

    with _connection() as (connection, registry):
        placed = place_hold(
            connection, registry, type=type, key=key or (), subject=subject, reason=reason, placed_by=by or _user()
        )
    if as_json:
        print_json(asdict(placed))
    else:
        typer.echo(f"hold {placed.id}: {plain(_what(placed))} is kept until `penstock retention release {placed.id}`")


@_app.command("release")
def release(
    hold_id: Annotated[int, typer.Argument(metavar="ID", help="The hold's number, as `holds` shows it.")],
    by: _By = None,
    as_json: _Json = False,
) -> None:
    """End a hold: what it kept goes when its time comes, which may be the next run."""
    from penstock_worker.store.legal_holds import release_hold

    with _connection() as (connection, _):
        released = release_hold(connection, hold_id, by or _user())
    if as_json:
        print_json(asdict(released))
    else:
        typer.echo(f"hold {released.id} is released: {plain(_what(released))}")


@contextmanager
def _connection() -> Iterator[tuple[Connection, Registry]]:
    from penstock_worker.store.connection import connect_with
    from penstock_worker.store.queries import explained
    from penstock_worker.store.retention.policy import registry_for

    settings = load_settings()
    registry = registry_for(settings)
    with explained(), connect_with(settings)() as connection:
        yield connection, registry


def _type_as_json(one: TypePlan) -> dict[str, Any]:
    retention = one.policy.retention
    return asdict(one) | {"policy": {"retention_s": retention and retention.total_seconds(), "source": one.policy.source}}


def _show_plan(found: Plan, console: Console) -> None:
    table = Table(box=None, header_style="bold")
    for heading in ("type", "kept", "source"):
        table.add_column(heading, no_wrap=True)
    for heading in ("rows", "would go", "idle", "on hold"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("next")
    for one in found.types:
        about = "" if one.is_exact else "~"
        counts = [f"{about}{count:,}" if count else "-" for count in (one.rows, one.due, one.idle, one.on_hold)]
        next_due = f"{one.next_due:%F %H:%M}" if one.next_due else "-"
        table.add_row(one.type, _period(one.policy.retention), one.policy.source, *counts, next_due)
    console.print(table)
    for one in found.types:
        for month in one.months:
            rows = "?" if month.rows is None else f"{month.rows:,}"
            fate = "has rows on hold, the others are deleted" if month.is_on_hold else "is dropped"
            console.print(f"{one.type}: {month.name}, ~{rows} rows, {month.bytes / 1e6:,.1f} MB, {fate}", soft_wrap=True)
    for name, told in found.letters.items():
        console.print(f"dead letters, {name}: kept {told['days']} days, {told['due']:,} would go")
    if any(not one.is_exact for one in found.types):
        console.print("~ is an estimate: of large tables a sample is read, of months PostgreSQL's count is taken")


def _period(retention: timedelta | None) -> str:
    if retention is None:
        return "for ever"
    if retention % timedelta(days=1):
        return f"{retention / timedelta(hours=1):g} h"
    return f"{retention.days} d"


def _holds(holds: list[LegalHold]) -> Table:
    table = Table(box=None, header_style="bold")
    for heading in ("id", "what", "since", "by", "why", "released"):
        table.add_column(heading, no_wrap=heading in ("id", "since"), overflow="fold")
    for one in holds:
        released = f"{one.released_at:%F %H:%M} by {one.released_by}" if one.released_at else "-"
        cells = (str(one.id), _what(one), f"{one.placed_at:%F %H:%M}", one.placed_by, one.reason, released)
        table.add_row(*(plain(cell, limit=300) for cell in cells))
    return table


def _what(hold: LegalHold) -> str:
    if hold.key is not None:
        return f"{hold.type} {', '.join(hold.key)}"
    if hold.subject is None:
        return f"all of {hold.type}"
    return f"person {hold.subject} in {hold.type or 'every type'}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())
