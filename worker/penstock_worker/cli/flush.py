"""`penstock flush`: what workers hold is committed when it returns."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from penstock_schemas.registry import load_registry
from penstock_worker.cli.by_hand import find_job, who_am_i
from penstock_worker.cli.output import print_json
from penstock_worker.settings import load_settings

__all__ = ["register"]

_EXIT_UNWRITTEN = 1


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("flush")(flush)


def flush(
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for all of it.")] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """
    Make every worker write what it holds; it is committed when this returns.

    What still waits in the queue is not among it. Exit code 1 if some of it could not be committed, or no worker answers.
    """
    from penstock_worker.maintenance.flush import flush_workers
    from penstock_worker.maintenance.job import run_job
    from penstock_worker.store.queries import explained

    settings = load_settings()
    job, registry, arguments = find_job("flush"), load_registry(settings.records), {"timeout_s": timeout_s}
    with explained():
        done = run_job(job, settings, registry, started_by=who_am_i(), arguments=arguments)
    # Beat's flush may be under way, which began before this call; and where the database is away the workers say so. Then there
    # is no row of this one, which does no harm.
    counts = done.counts if done.state == "done" else flush_workers(settings, timeout_s)
    unwritten = counts["unwritten"]
    if as_json:
        print_json(counts)
    elif counts["workers"] and not unwritten:
        typer.echo(_line(counts))
    for trouble in (f"{name}: {why}" for name, why in unwritten.items()):
        typer.echo(f"penstock: not flushed: {' '.join(trouble.split())}", err=True)
    if not counts["workers"]:
        typer.echo(f"penstock: nothing was flushed: no worker of {settings.queue} answers", err=True)
    if unwritten or not counts["workers"]:
        raise typer.Exit(_EXIT_UNWRITTEN)


def _line(counts: dict[str, Any]) -> str:
    workers = len(counts["workers"])
    whose = "one worker" if workers == 1 else f"{workers} workers"
    return f"{counts['events']:,} events in {counts['messages']:,} messages of {whose} are committed, in {counts['ms']:,.0f} ms"
