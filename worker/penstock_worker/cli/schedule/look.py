"""`penstock schedule list`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from penstock_worker.cli.by_hand import as_line
from penstock_worker.cli.output import plain, print_json
from penstock_worker.settings import Settings, load_settings

if TYPE_CHECKING:
    from penstock_worker.store.schedule import BeatSeen, Row

__all__ = ["RowSeen", "list_rows", "look", "relative"]

#: Characters of a result in the table; `--json` and `penstock maintenance runs` have all of it.
RESULT_SHOWN = 60

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


@dataclass(frozen=True, slots=True)
class RowSeen:
    """
    A row as people see it.

    Args:
        kind: `job`, a job with its timing `edited`, a `gone` job that this version does not have, or a row of their `own`.
        next_run: None where it is never sent: disabled, or refused because of `trouble`.
        next_run_in_s: Below 0 where it is late.
    """

    name: str
    kind: str
    task: str
    timing: str
    arguments: Any
    queue: str | None
    is_enabled: bool
    next_run: datetime | None
    next_run_in_s: float | None
    last_run: datetime | None
    last_result: Mapping[str, Any] | None
    trouble: str | None


def list_rows(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """List what is sent and when, what came of it the last time, and which beat leads."""
    rows, beats, now = look(load_settings())
    if as_json:
        print_json({"beats": [asdict(beat) for beat in beats], "rows": [asdict(row) for row in rows]})
        return
    console = Console()
    console.print(_who_leads(beats), soft_wrap=True)
    console.print(_table(rows, now))


def look(settings: Settings) -> tuple[list[RowSeen], list[BeatSeen], datetime]:
    """
    The rows, with jobs that no beat has added yet; the beats; and the server's time.

    Raises:
        ConfigurationError: The database cannot be used or is not migrated.
    """
    from penstock_worker.maintenance.schedule.scheduler import defaults_of
    from penstock_worker.store import schedule
    from penstock_worker.store.queries import open_reader

    with open_reader(settings) as reader:
        rows = schedule.list_rows(reader)
        beats = schedule.list_beats(reader)
        now = schedule.clock(reader)
    defaults = defaults_of(settings)
    names = {row.name for row in rows}
    rows += [schedule.Row.of(default) for name, default in defaults.items() if name not in names]
    tasks = {default.task for default in defaults.values()}
    return sorted((_seen(row, tasks, now) for row in rows), key=lambda row: row.name), beats, now


def _seen(row: Row, job_tasks: set[str], now: datetime) -> RowSeen:
    from penstock_worker.maintenance.schedule.decide import JOB_TASKS, REFUSED, timing_of, trouble_of

    # Which other tasks there are, only beat knows: its word is in the row.
    trouble = trouble_of(row, lambda task: task in job_tasks or not task.startswith(JOB_TASKS))
    if trouble is None and row.last_result and row.last_result.get("state") == REFUSED and row.next_run is None:
        trouble = str(row.last_result.get("error"))
    next_run = row.next_run
    if trouble or not row.is_enabled:
        next_run = None
    elif next_run is None or row.planned_by != str(timing_of(row)):
        next_run = timing_of(row).first(now, row.last_run)
    return RowSeen(
        name=row.name,
        kind=_kind(row, job_tasks),
        task=row.task,
        timing=str(timing_of(row)),
        arguments=row.arguments,
        queue=row.queue,
        is_enabled=row.is_enabled,
        next_run=next_run,
        next_run_in_s=None if next_run is None else round((next_run - now).total_seconds(), 3),
        last_run=row.last_run,
        last_result=row.last_result,
        trouble=trouble,
    )


def _kind(row: Row, job_tasks: set[str]) -> str:
    if row.is_own:
        return "own"
    if row.task not in job_tasks:
        return "gone"
    return "edited" if row.is_edited else "job"


def _who_leads(beats: list[BeatSeen]) -> str:
    if not beats:
        return "no beat is connected, so that nothing is sent: start one with `penstock beat`"
    leading = [f"{plain(beat.who)} leads, connected since {beat.since:%F %T}" for beat in beats if beat.leads]
    waiting = ", ".join(plain(beat.who) for beat in beats if not beat.leads)
    return f"beat: {leading[0] if leading else 'none leads yet'}{f'; {waiting} on standby' if waiting else ''}"


def _table(rows: list[RowSeen], now: datetime) -> Table:
    table = Table(box=None, header_style="bold")
    for heading in ("name", "when", "next run (UTC)", "last run"):
        table.add_column(heading, no_wrap=True)
    for heading in ("last result", ""):
        table.add_column(heading, overflow="fold")
    for row in rows:
        cells = (row.name, row.timing, _next(row), relative(row.last_run, now))
        table.add_row(*map(plain, cells), plain(_result(row), limit=RESULT_SHOWN), plain(_remark(row), limit=300))
    return table


def _next(row: RowSeen) -> str:
    if row.next_run is None or row.next_run_in_s is None:
        return "-"
    when = f"{row.next_run:%T}" if abs(row.next_run_in_s) < _DAY else f"{row.next_run:%F %R}"
    return f"{when}, {_span(row.next_run_in_s)}"


def relative(at: datetime | None, now: datetime) -> str:
    """`12 s ago`, `in 3 min`, `now`; a dash for never."""
    return "-" if at is None else _span((at - now).total_seconds())


def _span(seconds: float) -> str:
    size = abs(seconds)
    if size < 1:
        return "now"
    unit, name = next(
        ((unit, name) for unit, name in ((_DAY, "days"), (_HOUR, "h"), (_MINUTE, "min")) if size >= 2 * unit), (1, "s")
    )
    text = f"{size / unit:.0f} {name}"
    return f"in {text}" if seconds > 0 else f"{text} ago"


def _result(row: RowSeen) -> str:
    result = dict(row.last_result or {})
    if row.trouble or not result:
        return "-"
    state, seconds, error, counts = (result.get(name) for name in ("state", "seconds", "error", "counts"))
    text = f"{state} in {seconds:.2f} s" if isinstance(seconds, int | float) else str(state)
    said = error or (as_line(counts) if counts else "")
    return f"{text}: {said}" if said else text


def _remark(row: RowSeen) -> str:
    remarks = [] if row.kind == "job" else [row.kind]
    if not row.is_enabled:
        remarks.append("disabled")
    if row.trouble:
        remarks.append(f"NOT SENT: {row.trouble}")
    return ", ".join(remarks)
