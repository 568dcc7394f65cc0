"""
What a batch adds to the worker's metrics, on its way from the pool's child to the main process.

It travels as one line of plain text beside the counts that are the task's result, see `answers`; Flower never sees it.

    translation.task/stored=4998 translation.task/dead=2 lag=733.4:0,0,4100,898,0,0,0,0,0,0,0,0,0,0
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field

from penstock_worker.ingest.account import count_by_type
from penstock_worker.ingest.decode import Decoded
from penstock_worker.ingest.lag import Lag, lag_of

__all__ = ["MAX_MEASURES_CHARACTERS", "MEASURES", "UNKNOWN_TYPE", "Measures", "measure"]

#: Where the line is in the result of `penstock.write_batch`.
MEASURES = "measures"
#: The type of events whose own is not registered: what a sender makes up must not become a label.
UNKNOWN_TYPE = "unknown"

#: Pairs of type and outcome that one batch tells apart, the most frequent ones; events of others count as of an unknown type.
MAX_PAIRS = 300
#: Of a line: a type has up to 127 characters, an outcome 10, a count 8; the lag and the outcomes of an unknown type are short.
MAX_MEASURES_CHARACTERS = 64 * 1024


@dataclass(frozen=True, slots=True)
class Measures:
    """Events by type and outcome, and how long they took."""

    events: Counter[tuple[str, str]] = field(default_factory=Counter)
    lag: Lag = field(default_factory=Lag)

    def line(self) -> str:
        """As text, see the module."""
        words = [f"{type}/{outcome}={count}" for (type, outcome), count in _bounded(self.events).items()]
        return " ".join([*words, f"lag={self.lag.total_s:.6f}:{','.join(map(str, self.lag.counts))}"])

    @classmethod
    def parse(cls, line: str) -> Measures:
        """Back from `line`; nothing where there is none."""
        events: Counter[tuple[str, str]] = Counter()
        lag = Lag()
        for word in line.split():
            name, _, value = word.partition("=")
            if name == "lag":
                total_s, _, counts = value.partition(":")
                lag = Lag(tuple(map(int, counts.split(","))), float(total_s))
            else:
                type, _, outcome = name.partition("/")
                events[type, outcome] += int(value)
        return cls(events, lag)


def measure(decoded: Decoded, types: Container[str], now_us: int) -> Measures:
    """
    What a committed batch has to tell.

    Args:
        decoded: The batch, its outcomes final.
        types: Those that are registered.
        now_us: When it was committed, in microseconds.
    """
    events: Counter[tuple[str, str]] = Counter()
    for (type, outcome), count in count_by_type(decoded).items():
        events[type if type in types else UNKNOWN_TYPE, outcome] += count
    return Measures(events, lag_of(decoded, now_us))


def _bounded(events: Counter[tuple[str, str]]) -> Counter[tuple[str, str]]:
    ranked = events.most_common()
    bounded = Counter(dict(ranked[:MAX_PAIRS]))
    for (_, outcome), count in ranked[MAX_PAIRS:]:
        bounded[UNKNOWN_TYPE, outcome] += count
    return bounded
