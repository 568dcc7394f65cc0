"""`penstock demo`: 85,000 real texts through the whole way, and a comparison of every field."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from penstock_worker.cli.output import print_json
from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import STACK_FILE, Settings, load_settings

if TYPE_CHECKING:
    from penstock_worker.demo.run import OnProgress, Summary

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object last.")] = False,
    files: Annotated[int | None, typer.Option(min=1, help="How many message catalogues; all by default.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Producer processes.")] = 3,
) -> None:
    """
    Send Django's message catalogues through Penstock and compare every field of every row afterwards.

    Uses what `penstock up` runs in this folder; else starts a worker, and servers where no URLs are set, for this run.
    Exit code 0 if everything is stored as it must be, else 1.
    """
    from penstock_worker.cli.up import end_like_ctrl_c
    from penstock_worker.demo.run import run_demo

    end_like_ctrl_c()
    # stdout is the result's.
    console = Console(stderr=True)
    try:
        with _running_stack(console) as settings, _progress_bars(console) as on_progress:
            summary = run_demo(settings, files, processes, on_progress)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if as_json:
        print_json(asdict(summary))
    else:
        _show(summary, Console())
    if not summary.is_good:
        raise typer.Exit(1)


@contextmanager
def _running_stack(console: Console) -> Iterator[Settings]:
    """The settings of what runs here already, else of what is started for this run."""
    from penstock_worker.stack.up import start_stack

    if _is_up_here():
        yield load_settings()
        return
    console.print("starting a worker, and servers where no URLs are set ...")
    with start_stack(Path.cwd(), services=["worker"], say=lambda line: console.print(line, markup=False)) as stack:
        yield stack.settings


def _is_up_here() -> bool:
    from penstock_worker.stack.runfile import hold_folder

    if not STACK_FILE.exists():
        return False
    try:
        with hold_folder(STACK_FILE.parent):
            return False
    except ConfigurationError:
        return True


@contextmanager
def _progress_bars(console: Console) -> Iterator[OnProgress]:
    """One bar for what is published, without an end until the producers know it, and one for what is stored of it."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        published_bar, ended_bar = bars.add_task("published", total=None), bars.add_task("stored", total=None)

        def on_progress(published: int, ended: int, is_final: bool) -> None:
            bars.update(published_bar, completed=published, total=published if is_final else None)
            bars.update(ended_bar, completed=ended, total=published or None)

        yield on_progress


def _show(summary: Summary, console: Console) -> None:
    table = Table(title="stored as it must be" if summary.is_good else "NOT as it must be", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in asdict(summary).items():
        table.add_row(name.replace("_", " "), f"{value:,}")
    console.print(table)
