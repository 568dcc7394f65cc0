"""`penstock import-sqlite`: take over a database of the old scheduler."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from penstock_schemas.registry import load_registry
from penstock_worker.cli.output import plain, print_json
from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import load_settings

if TYPE_CHECKING:
    from penstock_worker.takeover.run import Refused, Report, Tell, TellRefused

__all__ = ["register"]

_EXIT_REFUSED = 1
#: Rows that are told one by one; all of them are dead letters, which can be listed.
ROWS_TOLD = 50


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("import-sqlite")(import_sqlite)


def import_sqlite(
    file: Annotated[Path, typer.Argument(help="The SQLite file; it is only read.")],
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Roll everything back, and tell what would become of it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    time_zone: Annotated[str, typer.Option(help="What times without a zone are in, such as Europe/Berlin.")] = "UTC",
    tables: Annotated[
        list[str] | None, typer.Option("--table", metavar="KIND=NAME", help="Where a kind is: job=my_jobs; may be repeated.")
    ] = None,
    statuses: Annotated[
        list[str] | None, typer.Option("--status", metavar="OLD=NEW", help="What a state is called now; may be repeated.")
    ] = None,
) -> None:
    """
    Take over jobs, pipelines and executions of the old scheduler. A second time it changes nothing.

    A row that has newer values in Penstock keeps them. One that cannot be stored is told, and is a dead letter: exit code 1.
    """
    from penstock_worker.store.queries import explained, open_reader
    from penstock_worker.takeover.run import Import
    from penstock_worker.takeover.values import SYNONYMS, Reader

    settings = load_settings()
    reader = Reader(_zone(time_zone), {**SYNONYMS, **{old.lower(): new for old, new in _pairs("--status", statuses)}})
    console = Console(stderr=True)
    with open_reader(settings) as connection:  # a long reading of the file for a database that is away would be in vain
        connection.execute("SELECT FROM penstock.ledger LIMIT 0")
    with explained(), _progress(console) as (tell, tell_refused):
        chosen = dict(_pairs("--table", tables))
        run = Import(
            settings, load_registry(settings.records), reader, chosen, datetime.now(UTC), is_dry_run, tell, tell_refused
        )
        report = run.run(file)
    if as_json:
        print_json({**asdict(report), "refused": report.refused})
    else:
        _show(report, Console())
    if report.refused:
        raise typer.Exit(_EXIT_REFUSED)


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError) as exc:
        raise ConfigurationError(f"--time-zone {name}: there is no such zone; give one such as UTC or Europe/Berlin") from exc


def _pairs(option: str, words: Iterable[str] | None) -> Iterator[tuple[str, str]]:
    for word in words or ():
        left, equals, right = word.partition("=")
        if not (left and equals and right):
            raise ConfigurationError(f"{option} {word}: give two words with = between them")
        yield left, right


@contextmanager
def _progress(console: Console) -> Iterator[tuple[Tell, TellRefused]]:
    """What is told the rows done, and what the rows refused."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    told = 0

    def tell_refused(refused: Refused) -> None:
        nonlocal told
        told += 1
        if told <= ROWS_TOLD:
            verdict = refused.verdict
            line = f"{refused.row} is {verdict.outcome}: {verdict.reason}, {verdict.detail}"
            console.print(plain(line, limit=400), highlight=False, soft_wrap=True)

    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total), tell_refused
    if told > ROWS_TOLD:
        console.print(f"and {told - ROWS_TOLD:,} rows more", highlight=False)


def _show(report: Report, console: Console) -> None:
    outcomes = sorted({name for table in report.tables.values() for name in table.outcomes} | {"stored", "superseded"})
    shown = Table(
        "table", "record type", title=plain(report.file) + (" (dry run, nothing was written)" if report.is_dry_run else "")
    )
    for name in ("rows", *outcomes):
        shown.add_column(name, justify="right")
    for name, table in report.tables.items():
        counts = (f"{table.outcomes.get(outcome, 0):,}" for outcome in outcomes)
        shown.add_row(plain(name), table.type, f"{table.rows:,}", *counts)
    console.print(shown)
    for line in _notes(report):
        console.print(plain(line, limit=400), highlight=False, soft_wrap=True)


def _notes(report: Report) -> Iterator[str]:
    if report.was_imported:
        yield "this state of the file was imported before; what was stored then is stored, and nothing has changed"
    for name, table in report.tables.items():
        if table.extra_columns:
            yield f"{name}: no fields of {table.type}, kept in _extra: {', '.join(table.extra_columns)}"
        if table.missing_columns:
            yield f"{name}: no column for {', '.join(table.missing_columns)}"
    if report.orphans:
        yield f"executions of jobs that are not in the file, stored all the same: {report.orphans:,}"
    if report.other_tables:
        yield f"tables that are not imported: {', '.join(report.other_tables)}"
    if report.refused and not report.is_dry_run:
        yield f"rows that are not stored: {report.refused:,}; see `penstock dead-letters list --producer import-sqlite`"
