"""`penstock schedule enable`, `disable`, `set` and `remove`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import psycopg
import typer

from penstock_worker.cli.output import plain
from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import load_settings

if TYPE_CHECKING:
    from penstock_worker.store.connection import Connection
    from penstock_worker.store.schedule import Default, Row

__all__ = ["disable", "enable", "find_row", "remove", "set_row"]

_Name = Annotated[str, typer.Argument(metavar="NAME", help="As `penstock schedule list` shows it.")]


def enable(name: _Name) -> None:
    """Let a row be sent again; what was missed meanwhile is not caught up with."""
    _set_enabled(name, is_enabled=True)


def disable(name: _Name) -> None:
    """Stop sending a row, until it is enabled."""
    _set_enabled(name, is_enabled=False)


def set_row(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A row that is there, or a new one.")],
    every_s: Annotated[float | None, typer.Option("--every", help="Seconds between two runs.")] = None,
    cron: Annotated[str | None, typer.Option(help="Minute, hour, day of month, month, day of week: `0 3 * * *`.")] = None,
    time_zone: Annotated[str | None, typer.Option(help="In which cron is meant, like Europe/Berlin. Default: UTC.")] = None,
    arguments: Annotated[str | None, typer.Option(help="JSON: an object of keyword arguments, or an array.")] = None,
    task: Annotated[str | None, typer.Option(help="The Celery task of a row of your own.")] = None,
    queue: Annotated[str | None, typer.Option(help="Where its workers read. Default: where Penstock's do.")] = None,
    is_default: Annotated[bool, typer.Option("--default", help="Let a job's row follow the settings again.")] = False,
) -> None:
    """Change when something runs and with what, or make a row for a task of your own. What is not given stays."""
    from penstock_worker.store import schedule

    changes = {"every_s": every_s, "cron": cron, "time_zone": time_zone, "task": task, "queue": queue}
    given: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
    if arguments is not None:
        given["arguments"] = _read_arguments(arguments)
    if is_default == bool(given):
        raise ConfigurationError("say what to change, see --help" if not given else "--default goes with nothing else")
    with _open() as (connection, defaults):
        row = schedule.find_row(connection, name)
        changed = _reset(row, name, defaults) if is_default else _changed(row, name, given, defaults)
        schedule.save(connection, changed)
        typer.echo(_told(changed, connection))


def remove(name: _Name) -> None:
    """Delete a row of your own, or of a job that is gone."""
    from penstock_worker.store import schedule

    with _open() as (connection, defaults):
        row = find_row(connection, name)
        if not row.is_own and name in defaults:
            raise ConfigurationError(f"{name} is a job of Penstock: `penstock schedule disable {name}` stops it")
        schedule.remove(connection, name)
    typer.echo(f"{plain(name)} is removed")


def find_row(connection: Connection, name: str) -> Row:
    """
    A row by its name.

    Raises:
        ConfigurationError: There is none.
    """
    from penstock_worker.store import schedule

    row = schedule.find_row(connection, name)
    if row is None:
        names = ", ".join(row.name for row in schedule.list_rows(connection))
        raise ConfigurationError(f"there is no {name!r} in the schedule; there are {names}")
    return row


def _set_enabled(name: str, *, is_enabled: bool) -> None:
    from penstock_worker.store import schedule

    with _open() as (connection, _):
        find_row(connection, name)
        schedule.set_enabled(connection, name, is_enabled=is_enabled)
        typer.echo(_told(find_row(connection, name), connection))


@contextmanager
def _open() -> Iterator[tuple[Connection, dict[str, Default]]]:
    """A connection, and the jobs as the settings have them; each has a row by then, whether a beat ran yet or not."""
    from penstock_worker.maintenance.schedule.scheduler import defaults_of
    from penstock_worker.store import schedule
    from penstock_worker.store.connection import connect_with
    from penstock_worker.store.queries import explained

    settings = load_settings()
    defaults = defaults_of(settings)
    try:
        with explained(), connect_with(settings)() as connection:
            schedule.add_missing(connection, defaults.values())
            yield connection, defaults
    except psycopg.DataError as exc:  # a NUL, half a surrogate pair: JSON has them and PostgreSQL does not
        raise ConfigurationError(f"the database does not take that: {' '.join(str(exc).split())}") from exc


def _changed(row: Row | None, name: str, given: dict[str, Any], defaults: dict[str, Default]) -> Row:
    """
    The row with what was given in place of what it had.

    Raises:
        ConfigurationError: It makes no sense.
    """
    from penstock_worker.maintenance.jobs import all_jobs
    from penstock_worker.maintenance.schedule.decide import JOB_TASKS, timing_of, trouble_of
    from penstock_worker.store.schedule import Row

    if row is None:
        if "task" not in given or not given.keys() & {"every_s", "cron"}:
            raise ConfigurationError(f"there is no {name!r} in the schedule yet: a new row needs --task, and --every or --cron")
        row = Row(name, given["task"], arguments={})
    elif not row.is_own and given.keys() & {"task", "queue"}:
        raise ConfigurationError(f"{name} is a job of Penstock: take another name for a row of your own")
    if "every_s" in given and "cron" not in given:
        given = {**given, "cron": None}
    elif "cron" in given and "every_s" not in given:
        given = {**given, "every_s": None}
    # An empty seed is no job's: the row is edited from now on, also where it says what the settings happen to say.
    changed = replace(row, **given, seed=None if row.is_own else {})
    timing_of(changed).check()
    job_tasks = {default.task for default in defaults.values()}
    job = all_jobs(load_settings()).get(changed.task.removeprefix(JOB_TASKS)) if changed.task.startswith(JOB_TASKS) else None
    if job is not None:
        job.check(changed.arguments)
    if why := trouble_of(changed, lambda task: task in job_tasks or not task.startswith(JOB_TASKS)):
        raise ConfigurationError(why)
    return changed


def _reset(row: Row | None, name: str, defaults: dict[str, Default]) -> Row:
    from penstock_worker.store.schedule import Row

    if row is None or row.is_own or name not in defaults:
        raise ConfigurationError(f"{name} is no job of Penstock: --default is for those")
    return replace(Row.of(defaults[name]), is_enabled=row.is_enabled, last_run=row.last_run)


def _read_arguments(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        value = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as exc:
        raise ConfigurationError(f"--arguments: {exc}") from exc
    if not isinstance(value, dict | list):
        raise ConfigurationError("--arguments: a JSON object or array is wanted")
    return value


def _told(row: Row, connection: Connection) -> str:
    from penstock_worker.cli.schedule.look import relative
    from penstock_worker.maintenance.schedule.decide import timing_of
    from penstock_worker.store import schedule

    timing = timing_of(row)
    if not row.is_enabled:
        return f"{plain(row.name)}: {plain(timing)}, disabled"
    now = schedule.clock(connection)
    next_run = timing.first(now, row.last_run)
    return f"{plain(row.name)}: {plain(timing)}, next run {next_run:%F %T}, {relative(next_run, now)}"
