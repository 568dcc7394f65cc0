"""`penstock disk`: what takes how much room, and how it grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from penstock_schemas.registry import load_registry
from penstock_worker.cli.output import plain, print_json
from penstock_worker.settings import Settings, load_settings

if TYPE_CHECKING:
    from penstock_worker.maintenance.disk import DiskUse
    from penstock_worker.store.disk import Growth, TableSize

__all__ = ["register"]

_EXIT_ALARM = 1
#: Tables that people are shown, the largest; `--json` has all.
TABLES_SHOWN = 12


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("disk")(disk)


def disk(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """
    Tell how large each table is (with its indexes and partitions), about how many rows it has, and how it grows.

    The growth comes from readings that beat takes every hour. Exit code 1: the database is larger than
    PENSTOCK_DISK_ALARM_BYTES, or will be within PENSTOCK_DISK_ALARM_DAYS.
    """
    from penstock_worker.maintenance.disk import look_at_disk
    from penstock_worker.store.queries import open_reader

    settings = load_settings()
    with open_reader(settings) as reader:
        use = look_at_disk(reader, load_registry(settings.records), settings, datetime.now(UTC))
    if as_json:
        print_json(_as_report(use, settings))
    else:
        _show(use, Console())
    if use.alarm:
        typer.echo(f"penstock: disk alarm: {use.alarm}", err=True)
        raise typer.Exit(_EXIT_ALARM)


def _as_report(use: DiskUse, settings: Settings) -> dict[str, Any]:
    return {
        "bytes": use.total_bytes,
        **_growth(use, None)._asdict(),
        "alarm_bytes": settings.disk_alarm_bytes,
        "days_left": use.days_left,
        "alarm": use.alarm,
        "tables": [{**asdict(table), **_growth(use, table.name)._asdict()} for table in use.tables],
    }


def _growth(use: DiskUse, name: str | None) -> Growth:
    """A table's, or the whole database's."""
    from penstock_worker.store.disk import DATABASE, Growth

    return use.growth.get(name or DATABASE, Growth())


def _show(use: DiskUse, console: Console) -> None:
    table = Table()
    table.add_column("table", no_wrap=True)
    for title in ("rows, about", "size", "of it indexes", "since yesterday", "since last week", "a day"):
        table.add_column(title, justify="right")
    for size in use.tables[:TABLES_SHOWN]:
        name = f"{size.name} ({size.partitions} parts)" if size.partitions else size.name
        sizes = (decimal(size.bytes), decimal(size.index_bytes))
        table.add_row(plain(name), f"{size.rows:,}", *sizes, *map(_signed, _growth(use, size.name)))
    if smaller := use.tables[TABLES_SHOWN:]:
        table.add_row(f"{len(smaller)} smaller ones", *_sums(smaller))
    rest = use.total_bytes - sum(size.bytes for size in use.tables)
    table.add_row("PostgreSQL's own, and others'", "", decimal(max(0, rest)), end_section=True)
    table.add_row("the whole database", "", decimal(use.total_bytes), "", *map(_signed, _growth(use, None)))
    console.print(table)
    if use.days_left is not None and not use.alarm:
        console.print(f"at this growth the alarm comes in {use.days_left:g} days")


def _sums(sizes: Sequence[TableSize]) -> tuple[str, str, str]:
    index_bytes = sum(size.index_bytes for size in sizes)
    return f"{sum(size.rows for size in sizes):,}", decimal(sum(size.bytes for size in sizes)), decimal(index_bytes)


def _signed(change: int | None) -> str:
    if change is None:
        return "-"
    return f"{'-' if change < 0 else '+'}{decimal(abs(change))}" if change else "0"
