"""When something is due: every so many seconds, or as a cron expression says in a time zone. Pure: the time is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim

from penstock_worker.errors import ConfigurationError

__all__ = ["LONGEST_S", "SHORTEST_S", "Timing"]

#: Bounds of an interval in seconds; the table holds them too.
SHORTEST_S, LONGEST_S = 0.1, 31_622_400.0
#: minute, hour, day of month, month, day of week; the library would also take seconds in front of them.
_CRON_FIELDS = 5


@dataclass(frozen=True, slots=True)
class Timing:
    """
    How often: either `every_s` or `cron` is given.

    Daylight saving, for cron, is as Debian's cron has it: a time that the clock skips is due right after the gap, one that
    comes twice is due the first time; where the hour or the minute is `*`, real time counts, so that `0 * * * *` is due 23
    and 25 times on these days.
    """

    every_s: float | None = None
    cron: str | None = None
    time_zone: str = "UTC"

    def __str__(self) -> str:
        if self.cron is None:
            return f"every {self.every_s:g} s"
        return f"{self.cron} {self.time_zone}"

    def check(self) -> None:
        """
        See whether it makes sense.

        Raises:
            ConfigurationError: It does not; the message says what is wrong.
        """
        _check(self)

    def first(self, now: datetime, last_run: datetime | None = None) -> datetime:
        """
        When it is due for the first time with this timing; what was missed before is not caught up with.

        An interval counts from the last run, so that a change does not start the counting anew, and a new row waits for one.
        """
        if self.cron is not None:
            return _next_cron(self.cron, self.time_zone, max(now, last_run or now))
        interval = timedelta(seconds=self.every_s or 0)
        due = (last_run or now) + interval
        # A last run that is ahead, for the clock went back, makes nobody wait for longer than an interval.
        return min(max(due, now), now + interval)

    def after(self, due: datetime, now: datetime) -> datetime:
        """When it is due after a run that was due and is sent now; of runs that were missed, that one stands for all."""
        if self.cron is not None:
            return _next_cron(self.cron, self.time_zone, max(due, now))
        interval = timedelta(seconds=self.every_s or 0)
        return due + interval if due + interval > now else now + interval


@lru_cache(maxsize=1024)
def _check(timing: Timing) -> None:
    if (timing.every_s is None) == (timing.cron is None):
        raise ConfigurationError("either an interval or a cron expression is wanted, not both")
    if timing.every_s is not None and not SHORTEST_S <= timing.every_s <= LONGEST_S:
        raise ConfigurationError(f"an interval is {SHORTEST_S:g} to {LONGEST_S:,.0f} seconds, not {timing.every_s:g}")
    _zone(timing.time_zone)
    if timing.cron is not None:
        _next_cron(timing.cron, timing.time_zone, datetime(2000, 1, 1, tzinfo=UTC))


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    # A name that leads out of the folder of zones, one that is a folder there, one with a NUL: each is another error.
    except (KeyError, ValueError, OSError) as exc:
        raise ConfigurationError(f"no time zone {name!r} is known here: use a name like Europe/Berlin or UTC") from exc


def _next_cron(cron: str, time_zone: str, after: datetime) -> datetime:
    """
    The first time after `after`, in UTC.

    In the hour that comes twice the library starts from the wall clock, which may have passed a time that is over: hence the
    comparison, in UTC, for Python compares times of one zone by their wall clock.
    """
    if len(cron.split()) != _CRON_FIELDS:
        raise ConfigurationError(f"cron {cron!r}: five fields are wanted: minute, hour, day of month, month, day of week")
    start = after.astimezone(_zone(time_zone))
    try:
        found = next((at for run in CronSim(cron, start) if (at := run.astimezone(UTC)) > after), None)
    # Whatever the parser does with nonsense, it is that row's fault and nobody else's.
    except Exception as exc:
        raise ConfigurationError(f"cron {cron!r}: {str(exc) or type(exc).__name__}") from exc
    if found is None:
        raise ConfigurationError(f"cron {cron!r} is never due")
    return found
