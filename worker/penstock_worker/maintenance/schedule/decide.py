"""What beat does with a row of the schedule. Pure: nothing here asks a clock, the database or the broker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from penstock_worker.errors import ConfigurationError
from penstock_worker.maintenance.schedule.timing import Timing
from penstock_worker.store.schedule import Default, Row

__all__ = ["JOB_TASKS", "REFUSED", "Decision", "Knows", "decide", "timing_of", "trouble_of"]

#: What the tasks of jobs begin with.
JOB_TASKS = "penstock.maintain."
#: The state in `last_result` of a row that makes no sense.
REFUSED = "refused"

#: A clock that goes back by more than this was wrong before, and what it said then counts no longer; Debian's cron has the same
#: limit. By less, nothing that was run is run again.
CLOCK_WAS_WRONG = timedelta(hours=3)

#: Whether there is a task of this name.
Knows = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Decision:
    """
    What to do.

    `wait` nothing; `plan` set `next_run`; `clear` the row is disabled, forget when it would be due; `refuse` the row makes no
    sense, `why` says it; `follow` nobody edited the row, and the settings say something else by now; `send` it is due, and
    `next_run` is the time after that.
    """

    action: Literal["wait", "plan", "clear", "refuse", "follow", "send"]
    next_run: datetime | None = None
    why: str = ""


_WAIT = Decision("wait")


def timing_of(row: Row) -> Timing:
    return Timing(row.every_s, row.cron, row.time_zone)


def decide(row: Row, now: datetime, knows: Knows, defaults: Mapping[str, Default]) -> Decision:
    """
    Decide about one row; calling it again after the decision was carried out gives `wait`, or what comes next.

    What somebody edited is seen by comparing: `planned_by` is the timing that `next_run` follows from.
    """
    default = defaults.get(row.name)
    if default is not None and row.seed not in (None, default.seed) and not row.is_edited:
        return Decision("follow")
    if not row.is_enabled:
        return _WAIT if row.next_run is None and row.planned_by is None else Decision("clear")
    if why := trouble_of(row, knows):
        is_told = row.next_run is None and row.last_result == {"state": REFUSED, "error": why}
        return _WAIT if is_told else Decision("refuse", why=why)
    timing = timing_of(row)
    if row.next_run is None or row.planned_by != str(timing):
        return Decision("plan", timing.first(now, row.last_run))
    if row.next_run <= now:
        return Decision("send", timing.after(row.next_run, now))
    return _check_clock(row, timing, now)


def trouble_of(row: Row, knows: Knows) -> str | None:
    """Why a row cannot be run, in a line."""
    try:
        timing_of(row).check()
    except ConfigurationError as exc:
        return str(exc)
    if row.arguments is None:
        return "its arguments cannot be read: a number is too long, or brackets are nested too deep"
    if row.queue is not None or knows(row.task):
        return None
    if row.task.startswith(JOB_TASKS):
        return f"there is no job {row.task.removeprefix(JOB_TASKS)!r} in this version of Penstock"
    return f"no task {row.task!r} is known here: name its module in PENSTOCK_TASKS, or the queue that its workers read"


def _check_clock(row: Row, timing: Timing, now: datetime) -> Decision:
    """A clock that went back must not keep an interval waiting, nor anything wait for the year that it was in."""
    assert row.next_run is not None  # it was planned
    was_wrong = row.last_run is not None and row.last_run - now > CLOCK_WAS_WRONG
    if timing.cron is not None and not was_wrong:
        return _WAIT
    soonest = timing.first(now)
    return Decision("plan", soonest) if row.next_run > soonest else _WAIT
