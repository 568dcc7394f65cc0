"""
What the writers publish: records of tests/records.py, drawn so that writers meet on the same keys, each with its whole effect
known beforehand.

Keys come in generations of some seconds, so that no key has thousands of events, which the model would take hours to fold; at
times an event belongs to an older generation, so that much is late.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from penstock_schemas import Record
from tests.records import RECORDS

__all__ = ["RECORD_CLASSES", "Draft", "Drafts"]

RECORD_CLASSES: dict[str, type[Record]] = {record.__record__.type: record for record in RECORDS}

#: Seconds of a generation, and how many back a late event may belong to.
_GENERATION_S = 2.0
_GENERATIONS_BACK = 6
#: Of a key that is too long for an index, which only the database sees. It cannot be compressed.
_CULPRIT_LENGTH = 9_000


@dataclass(frozen=True, slots=True)
class Draft:
    """An event to be published: `version` in microseconds, `data` as JSON values."""

    type: str
    op: str
    version: int
    data: dict[str, Any]


class Drafts:
    """
    Draws events.

    Args:
        draw: Where chance comes from.
        mark: Goes into texts; unique to the writer.
        started_at: The run's start, in seconds since 1970: writers with the same one meet.
        now: The wall clock.
        culprit_one_in: One site in so many has a key that the database refuses, and ends as a dead letter.
    """

    def __init__(
        self, draw: random.Random, mark: str, started_at: float, now: Callable[[], float], culprit_one_in: int = 100
    ) -> None:
        self._draw, self._mark, self._started_at, self._now = draw, mark, started_at, now
        self._count = 0
        self._culprit_one_in = culprit_one_in
        month = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        #: The times that the reference model knows.
        self._times = (month.isoformat(), month.replace(day=2, hour=13, minute=30).isoformat())
        self._makers = (
            *(self._site,) * 2,
            *(self._run,) * 5,
            *(self._note,) * 4,
            *(self._remark,) * 2,
            *(self._pair,) * 4,
            *(self._reading,) * 3,
            self._tally,
            self._lone_mark,
        )

    def next(self) -> Draft:
        """The next event."""
        self._count += 1
        now = self._now()
        generation = int((now - self._started_at) / _GENERATION_S)
        if self._draw.random() < 0.15:
            generation = max(0, generation - self._draw.randint(1, _GENERATIONS_BACK))
        name, key, parent, others = self._draw.choice(self._makers)(generation)
        version = self._version(int(now * 1_000_000))
        if name not in ("lab.reading", "lab.mark") and self._draw.random() < 0.06:
            return Draft(name, "delete", version, key)
        if others and self._draw.random() < 0.5:
            others = {column: value for column, value in others.items() if self._draw.random() < 0.4}
        return Draft(name, "upsert", version, {**key, **parent, **others})

    def _version(self, now_us: int) -> int:
        """Mostly now; at times a moment that others have too, at times late."""
        chance = self._draw.random()
        if chance < 0.2:
            return now_us - now_us % 50_000
        return now_us - self._draw.randint(0, 3_000_000) if chance < 0.3 else now_us

    def _text(self) -> str | None:
        return self._draw.choice((f"{self._mark}:{self._count}", "\u00e4\\N\t\n \U0001f600", None))

    def _number(self) -> int | None:
        return self._draw.choice((None, self._draw.randint(-1000, 1000), self._draw.randint(-1000, 1000)))

    def _time(self) -> str | None:
        return self._draw.choice((None, *self._times))

    def _state(self) -> str | None:
        return self._draw.choice((None, "open", "open", "busy", "busy", "done", "failed"))

    def _site(self, generation: int) -> tuple[str, Any, Any, Any]:
        site = f"s{generation}-{self._draw.randrange(3)}"
        if self._draw.randrange(self._culprit_one_in) == 0:
            site = self._draw.randbytes(_CULPRIT_LENGTH // 2).hex()
        others = {"name": self._text(), "since": self._time(), "most": self._number()}
        return "lab.site", {"site_id": site}, {}, others | {"status": self._state(), "error": self._text()}

    def _run(self, generation: int) -> tuple[str, Any, Any, Any]:
        number = self._draw.randrange(9)
        others = {
            "label": self._text(),
            "details": self._draw.choice((None, {}, {"a": {"b": [1.5, None, "\\"]}}, {"n": self._count})),
            "origin": self._text(),
            "opened_by": self._number(),
            "lowest": self._number(),
            "started_at": self._time(),
            "highest": self._draw.choice((None, 0.5, self._draw.randint(-9, 9) / 4)),
            "last_word": self._text(),
            "status": self._state(),
            "ended_at": self._time(),
        }
        return "lab.run", {"run_id": f"r{generation}-{number}"}, {"site_id": f"s{generation}-{number % 3}"}, others

    def _note(self, generation: int) -> tuple[str, Any, Any, Any]:
        number = self._draw.randrange(6)
        others = {"text": self._text(), "size": self._draw.choice((None, 0.25, -2)), "tags": [self._mark, self._count, None]}
        return "lab.note", {"number": generation * 100 + number}, {"site_id": f"s{generation}-{number % 3}"}, others

    def _remark(self, generation: int) -> tuple[str, Any, Any, Any]:
        number = self._draw.randrange(4)
        remark = str(UUID(int=(generation << 16) + number, version=4))
        # Some belong to a note that nobody writes, which therefore stays a placeholder.
        return "lab.remark", {"remark_id": remark}, {"note": generation * 100 + number * 3}, {"text": self._text()}

    def _pair(self, generation: int) -> tuple[str, Any, Any, Any]:
        key = {"tenant": self._draw.choice("aB"), "number": generation * 100 + self._draw.randrange(4)}
        return "lab.pair", key, {}, {"text": self._text(), "flag": self._draw.choice((None, True, False))}

    def _reading(self, generation: int) -> tuple[str, Any, Any, Any]:
        """Without an id: each of them is a row of its own, so that an effect that comes twice is a row too many."""
        del generation
        others = {"value": self._draw.random(), "note": f"{self._mark}:{self._count}", "peak": self._number()}
        return "lab.reading", {"at": self._draw.choice(self._times)}, {}, others

    def _tally(self, generation: int) -> tuple[str, Any, Any, Any]:
        return "lab.tally", {"tally_id": generation * 10 + self._draw.randrange(2)}, {}, {"most": self._number()}

    def _lone_mark(self, generation: int) -> tuple[str, Any, Any, Any]:
        return "lab.mark", {"mark_id": f"m{generation}-{self._draw.randrange(3)}"}, {}, {}
