"""Running a job of maintenance by hand: the code that beat starts, a bar for a person who waits, and one line at the end."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from penstock_worker.cli.output import print_json
from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import load_settings
from penstock_worker.store.retention.policy import registry_for

if TYPE_CHECKING:
    from penstock_worker.maintenance.job import Done, Job, Progress

__all__ = ["as_line", "find_job", "run_by_hand", "who_am_i"]

_EXIT_SKIPPED = 1


def run_by_hand(
    name: str,
    *,
    is_dry_run: bool = False,
    as_json: bool = False,
    arguments: Mapping[str, Any] | None = None,
    say: Callable[[Done], None] | None = None,
) -> Done:
    """
    Run a job now, and say what it did; `say` does that of one that was done, where the usual line or object does not fit.

    Returns:
        How it ended; always `done`.

    Raises:
        ConfigurationError: There is no such job, it knows no dry run, or the database is away, refuses, or is not migrated.
        typer.Exit: Another run of it is under way, which has been said; exit code 1.
        Exception: Whatever the job raised.
    """
    import psycopg

    from penstock_worker.maintenance.job import run_job
    from penstock_worker.store.queries import explained

    settings = load_settings()
    job = find_job(name)
    registry = registry_for(settings)
    try:
        with explained(), _bar(name) as progress:
            done = run_job(
                job, settings, registry, started_by=who_am_i(), is_dry_run=is_dry_run, arguments=arguments, progress=progress
            )
    except psycopg.Error as exc:
        raise ConfigurationError(f"{name} failed, the database says: {' '.join(str(exc).split())}") from exc
    if done.state == "away":
        raise ConfigurationError(f"{name} was not finished, the database is away: {done.error}; check PENSTOCK_DATABASE_URL")
    if say is not None and done.state == "done":
        say(done)
    elif as_json:
        print_json({**asdict(done), "is_dry_run": is_dry_run})
    elif done.state == "done":
        typer.echo(f"{name}: {as_line(done.counts)}{' (dry run, nothing was changed)' if is_dry_run else ''}")
    if done.state == "skipped":
        typer.echo(f"penstock: {name} was not run: {done.error}; see `penstock maintenance runs --job {name}`", err=True)
        raise typer.Exit(_EXIT_SKIPPED)
    return done


def find_job(name: str) -> Job:
    """
    A job by its name.

    Raises:
        ConfigurationError: There is no such job.
    """
    from penstock_worker.maintenance.jobs import all_jobs

    jobs = all_jobs(load_settings())
    if name not in jobs:
        raise ConfigurationError(f"there is no job {name!r}; there are {', '.join(jobs)}")
    return jobs[name]


def as_line(counts: Any) -> str:
    """Counts as words, `letters 3, outcomes (dead 1, stored 2)`: one line, and no markup of ours in it."""
    if isinstance(counts, Mapping):
        return ", ".join(f"{_word(name).replace('_', ' ')} {_part(value)}" for name, value in counts.items()) or "nothing to do"
    if isinstance(counts, list | tuple | set):
        return ", ".join(_part(value) for value in counts) or "none"
    return f"{counts:,}" if isinstance(counts, int | float) and not isinstance(counts, bool) else _word(counts)


def _part(value: Any) -> str:
    return f"({as_line(value) if value else 'none'})" if isinstance(value, Mapping) else as_line(value)


def _word(value: object) -> str:
    """Without the control characters that a name or a reason of a stranger may have."""
    return "".join(character if character.isprintable() else " " for character in str("-" if value is None else value))


@contextmanager
def _bar(what: str) -> Iterator[Progress]:
    """Nothing where stderr is no terminal, or the job says nothing of its progress."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def who_am_i() -> str:
    """What `started_by` says of a run by hand."""
    try:
        return f"hand:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user without a name
        return f"hand:{os.getuid()}"
