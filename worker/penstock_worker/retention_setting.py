"""How PENSTOCK_RETENTION is written: `guardian.metric=30d, scheduler.execution=never`."""

from __future__ import annotations

import re
from datetime import timedelta

__all__ = ["parse_retention"]

_PERIOD = re.compile(r"([1-9]\d{0,6})([hdwy])")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1), "y": timedelta(days=365)}
#: A table of a hundred years of months still opens in time; who wants more wants `never`.
_LONGEST = 100 * _UNITS["y"]
_NEVER = "never"


def parse_retention(text: str) -> dict[str, timedelta | None]:
    """
    How long the rows of each type are kept; None: they never go.

    Raises:
        ValueError: It is not written so; the message says which part, and how it would be right.
    """
    policies: dict[str, timedelta | None] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        type, sign, period = (word.strip() for word in part.partition("="))
        if not type or not sign:
            raise ValueError(f"{part!r}: write type=30d or type=never")
        if type in policies:
            raise ValueError(f"{type} is given twice")
        policies[type] = None if period == _NEVER else _parse_period(type, period)
    return policies


def _parse_period(type: str, text: str) -> timedelta:
    found = _PERIOD.fullmatch(text)
    if not found:
        raise ValueError(f"{type}={text}: write hours, days, weeks or years such as 12h, 30d, 8w, 2y, or never")
    period = int(found[1]) * _UNITS[found[2]]
    if period > _LONGEST:
        raise ValueError(f"{type}={text}: that is more than 100 years, write never")
    return period
