"""When a row of the schedule is due, over the two nights of daylight saving, the end of a month, and what makes no sense."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_worker.errors import ConfigurationError
from penstock_worker.maintenance.schedule.timing import Timing

BERLIN = "Europe/Berlin"
#: The nights of 2026 in which the clocks of Berlin change: 02:00 is followed by 03:00, and 02:59 by 02:00.
SPRING, AUTUMN = date(2026, 3, 29), date(2026, 10, 25)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def runs(timing: Timing, begin: datetime, end: datetime) -> list[datetime]:
    """As beat finds them: each from the one before, sent a moment after it was due."""
    found = [timing.first(begin)]
    while found[-1] < end:
        found.append(timing.after(found[-1], found[-1] + timedelta(seconds=0.3)))
    return found[:-1]


def runs_of_day(timing: Timing, day: date) -> list[str]:
    zone = ZoneInfo(BERLIN)
    begin = datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
    end = datetime(day.year, day.month, day.day + 1, tzinfo=zone).astimezone(UTC)
    return [f"{run.astimezone(zone):%H:%M%z}" for run in runs(timing, begin - timedelta(seconds=1), end)]


@pytest.mark.parametrize(
    ("cron", "day", "expected"),
    [
        ("30 2 * * *", SPRING, ["03:00+0200"]),  # 02:30 is skipped: right after the gap
        ("30 2 * * *", AUTUMN, ["02:30+0200"]),  # 02:30 comes twice: the first one
        ("0 3 * * *", SPRING, ["03:00+0200"]),
        ("0 3 * * *", AUTUMN, ["03:00+0100"]),
        ("15,45 2 * * *", SPRING, ["03:00+0200"]),
        ("15,45 2 * * *", AUTUMN, ["02:15+0200", "02:45+0200"]),
    ],
)
def test_a_daily_job_runs_once_in_the_night_of_the_change(cron: str, day: date, expected: list[str]) -> None:
    assert runs_of_day(Timing(cron=cron, time_zone=BERLIN), day) == expected


@pytest.mark.parametrize(("day", "hours"), [(SPRING, 23), (AUTUMN, 25), (date(2026, 7, 1), 24)])
def test_an_hourly_job_runs_in_every_real_hour(day: date, hours: int) -> None:
    hourly = Timing(cron="0 * * * *", time_zone=BERLIN)
    assert len(runs_of_day(hourly, day)) == hours
    assert len(set(runs_of_day(hourly, day))) == hours


def test_a_run_of_the_doubled_hour_is_not_found_again_in_its_second_pass() -> None:
    """Beat was away at 02:30, and back at 02:10 of the second pass: the missed run is sent then, and the next is tomorrow's."""
    timing = Timing(cron="30 2 * * *", time_zone=BERLIN)
    assert timing.after(utc("2026-10-25T00:30"), utc("2026-10-25T01:10")) == utc("2026-10-26T01:30")
    assert timing.first(utc("2026-10-25T01:10")) == utc("2026-10-26T01:30")


@given(
    st.sampled_from(["30 2 * * *", "15,45 1-3 * * *", "*/10 * * * *", "0 * * * *", "59 2 * * sun", "0 0 L * *"]),
    st.sampled_from([BERLIN, "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "UTC"]),
    st.integers(0, 10 * 365 * 24 * 60).map(lambda minutes: utc("2018-01-01T00:00") + timedelta(minutes=minutes)),
    st.timedeltas(timedelta(0), timedelta(hours=3)),
)
def test_the_next_run_is_always_ahead(cron: str, time_zone: str, due: datetime, late: timedelta) -> None:
    """Ahead of the run and of now: a run that is found twice would be sent twice."""
    timing = Timing(cron=cron, time_zone=time_zone)
    now = due + late
    first, after = timing.first(now), timing.after(due, now)
    assert first > now
    assert after == first
    following = runs(timing, now, now + timedelta(hours=4))
    assert all(earlier < later for earlier, later in pairwise(following))


def test_the_ends_of_months() -> None:
    begin, end = utc("2027-12-31T12:00"), utc("2028-07-01T00:00")
    thirty_first, last = Timing(cron="0 6 31 * *"), Timing(cron="0 6 L * *")
    assert [f"{run:%m-%d}" for run in runs(thirty_first, begin, end)] == ["01-31", "03-31", "05-31"]
    assert [f"{run:%m-%d}" for run in runs(last, begin, end)] == ["01-31", "02-29", "03-31", "04-30", "05-31", "06-30"]


def test_a_month_ends_where_the_time_zone_says() -> None:
    """The first of March begins in Auckland while it is February in Greenwich."""
    timing = Timing(cron="0 0 1 * *", time_zone="Pacific/Auckland")
    assert timing.first(utc("2027-02-27T00:00")) == utc("2027-02-28T11:00")


def test_missed_runs_are_one() -> None:
    due, much_later = utc("2026-11-21T12:00"), utc("2026-11-21T15:07")
    assert Timing(every_s=60).after(due, much_later) == much_later + timedelta(seconds=60)
    assert Timing(cron="0 * * * *").after(due, much_later) == utc("2026-11-21T16:00")


def test_an_interval_keeps_its_beat() -> None:
    """What a tick comes late does not add up."""
    due = utc("2026-11-21T12:00")
    assert Timing(every_s=60).after(due, due + timedelta(seconds=2)) == due + timedelta(seconds=60)


def test_an_interval_counts_from_the_last_run() -> None:
    now = utc("2026-11-21T12:00")
    timing = Timing(every_s=60)
    assert timing.first(now) == now + timedelta(seconds=60)
    assert timing.first(now, now - timedelta(seconds=20)) == now + timedelta(seconds=40)
    assert timing.first(now, now - timedelta(days=1)) == now
    assert timing.first(now, now + timedelta(days=1)) == now + timedelta(seconds=60)


@pytest.mark.parametrize(
    ("timing", "says"),
    [
        (Timing(), "either an interval or a cron expression"),
        (Timing(every_s=1, cron="* * * * *"), "either an interval or a cron expression"),
        (Timing(every_s=0), "an interval is 0.1 to 31,622,400 seconds, not 0"),
        (Timing(every_s=float("nan")), "not nan"),
        (Timing(every_s=float("inf")), "not inf"),
        (Timing(cron="0 25 * * *"), "cron '0 25 * * *': Bad hour"),
        (Timing(cron="0 0 30 2 *"), "cron '0 0 30 2 *': Bad day-of-month"),
        (Timing(cron="0 0 * * L/2"), "cron '0 0 * * L/2': "),
        (Timing(cron="@daily"), "five fields are wanted"),
        (Timing(cron="0 0 0 * * *"), "five fields are wanted"),
        (Timing(cron=""), "five fields are wanted"),
        (Timing(every_s=1, time_zone="Mars/Olympus"), "no time zone 'Mars/Olympus' is known here"),
        (Timing(every_s=1, time_zone="Europe"), "no time zone 'Europe'"),
        (Timing(every_s=1, time_zone="../../etc/passwd"), "no time zone"),
        (Timing(every_s=1, time_zone=""), "no time zone ''"),
        (Timing(every_s=1, time_zone="a\0b"), "no time zone"),
    ],
)
def test_what_makes_no_sense_is_one_line(timing: Timing, says: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        timing.check()
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


@given(st.text(max_size=12))
def test_no_expression_does_more_than_be_refused(cron: str) -> None:
    timing = Timing(cron=f"{cron} * * * *")
    try:
        timing.check()
    except ConfigurationError:
        return
    assert timing.first(utc("2026-11-21T12:00")) > utc("2026-11-21T12:00")
