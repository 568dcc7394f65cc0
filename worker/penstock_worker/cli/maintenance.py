"""`penstock maintenance list | run | runs`: the jobs that beat starts, running one by hand, and what the last runs did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from penstock_worker.cli.by_hand import as_line, find_job, run_by_hand
from penstock_worker.cli.output import plain, print_json
from penstock_worker.settings import load_settings

if TYPE_CHECKING:
    from penstock_worker.store.runs import Run

__all__ = ["register"]

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

#: Characters of a run that are shown at most, and as many as fit into a line of the terminal; `--json` has all of it.
_LINE_SHOWN = 400

_app = typer.Typer(no_args_is_help=True, help="What keeps house: its jobs, running one by hand, and what the last runs did.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(_app, name="maintenance")


@_app.command("list")
def list_jobs(as_json: _Json = False) -> None:
    """List the jobs, and how often each is run where the schedule says nothing else."""
    from penstock_worker.maintenance.jobs import all_jobs

    jobs = all_jobs(load_settings()).values()
    if as_json:
        values = [{name: getattr(job, name) for name in ("name", "summary", "every_s", "cron", "deletes")} for job in jobs]
        print_json({"jobs": values})
        return
    table = Table("job", "what it does", "how often", "dry run", box=None, header_style="bold")
    for job in jobs:
        often = job.cron or f"every {job.every_s:g} s"
        table.add_row(job.name, job.summary, often, "yes" if job.deletes else "-")
    Console().print(table)


@_app.command("run")
def run(
    name: Annotated[str, typer.Argument(metavar="NAME", help="One of `penstock maintenance list`.")],
    is_dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would go, and delete nothing.")] = False,
    as_json: _Json = False,
) -> None:
    """Run a job now, as beat would. Exit code 1 if another run of it is under way."""
    run_by_hand(name, is_dry_run=is_dry_run, as_json=as_json)


@_app.command("runs")
def list_runs(
    job: Annotated[str | None, typer.Option(help="Only of this job.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, the last ones first.")] = 20,
    as_json: _Json = False,
) -> None:
    """List the last runs: when (in UTC), by whom, and what they did."""
    from penstock_worker.store.queries import open_reader
    from penstock_worker.store.runs import list_runs as find_runs

    if job is not None:
        find_job(job)
    with open_reader(load_settings()) as reader:
        runs = find_runs(reader, job, limit)
    if as_json:
        print_json({"runs": [asdict(run) for run in runs]})
    elif runs:
        for line in _lines(runs):
            Console().print(plain(line, limit=_LINE_SHOWN), no_wrap=True, overflow="ellipsis", highlight=False)
    else:
        typer.echo("no run yet" if job is None else f"{job} has not been run yet")


def _lines(runs: list[Run]) -> Iterator[str]:
    """One for each run, its first words below each other."""
    cells = [(f"{run.started_at:%F %T}", run.job, run.started_by, _how_it_ended(run)) for run in runs]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for run, words in zip(runs, cells, strict=True):
        did = run.error or ("" if run.counts is None else as_line(run.counts))
        yield "  ".join([*(word.ljust(width) for word, width in zip(words, widths, strict=True)), " ".join(did.split())])


def _how_it_ended(run: Run) -> str:
    seconds = "" if run.seconds is None else f" in {run.seconds:.2f} s"
    return f"{run.state}{seconds}{', dry run' if run.is_dry_run else ''}"
