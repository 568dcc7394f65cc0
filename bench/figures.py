"""What is done with figures: digests, medians, spreads, percentiles, and the order in which contenders take their turns."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["DIGEST_DIGITS", "alternate", "digest_of", "median", "percentile", "rates", "rotated", "spread"]


#: Of an MD5; 60 bits, so that a sum of millions fits wherever it is made.
DIGEST_DIGITS = 15


def digest_of(md5s: Sequence[str]) -> int:
    """Of texts that stand for rows, whatever their order: what `Table.sent_digest` is compared with."""
    return sum(int(md5[:DIGEST_DIGITS], 16) for md5 in md5s)


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def spread(values: Sequence[float], digits: int = 0) -> list[float]:
    """The lowest and the highest."""
    return [round(min(values), digits), round(max(values), digits)]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that is not below `percent` of all (nearest rank): always one that was measured."""
    ordered = sorted(values)
    rank = math.ceil(percent / 100 * len(ordered))
    return ordered[max(rank, 1) - 1]


def rates(events: int, seconds: Sequence[float]) -> list[float]:
    """Events per second of each round."""
    return [events / duration for duration in seconds]


def alternate(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Let all take their turn in every round, each round begun by another one, so that no place in the order is anybody's."""
    measured: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in rotated(list(contenders), number):
            measured[name].append(contenders[name]())
    return measured


def rotated(items: Sequence[str], by: int) -> Iterator[str]:
    """The items in their order, begun at another one."""
    for place in range(len(items)):
        yield items[(place + by) % len(items)]
