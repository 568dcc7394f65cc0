"""
How long events took from `publish` to the commit, a batch at a time.

The wire has one time, an event's version: the microsecond in which the producer accepted it. `occurred_at` moves it into the
past, and that is no lag: a version from before the producer's process began, which its epoch tells, is left out. A time given
from since then counts as if it were that of the publishing, and so does the `time` of a CloudEvent.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from penstock_schemas.metrics import LAG_S
from penstock_worker.ingest.decode import Decoded
from penstock_worker.ingest.message import Envelope

__all__ = ["Lag", "lag_of"]

_BOUNDS_US = [int(bound * 1_000_000) for bound in LAG_S]


_NONE = (0,) * (len(LAG_S) + 1)


@dataclass(frozen=True, slots=True)
class Lag:
    """Events by the bounds of `LAG_S`: up to each, and over all; and the seconds of all of them together."""

    counts: tuple[int, ...] = _NONE
    total_s: float = 0.0

    def __add__(self, other: Lag) -> Lag:
        counts = tuple([mine + others for mine, others in zip(self.counts, other.counts, strict=True)])
        return Lag(counts, self.total_s + other.total_s)


def lag_of(decoded: Decoded, now_us: int) -> Lag:
    """
    The lag of the events that are in their tables, superseded ones and tombstones included.

    Args:
        decoded: A committed batch.
        now_us: When it was, by this host's clock: against a producer's that is ahead, the lag is 0.
    """
    starts = _Starts(decoded.envelopes)
    written = [event for event in decoded.events if event.verdict is None]
    single = starts.published([event.version for event in written], (event.envelope for event in written))
    lags = [_lag(starts.published(block.versions, block.envelopes), now_us) for block in decoded.blocks]
    return sum(lags, _lag(single, now_us))


def _lag(versions: Sequence[int], now_us: int) -> Lag:
    """`versions` are sorted: what is published in order is sorted at little cost, and then counted by a few looks."""
    # Whatever lies below the place of a bound waited for longer.
    places = [bisect_left(versions, now_us - bound) for bound in _BOUNDS_US]
    counts = tuple([newer - older for newer, older in pairwise([len(versions), *places, 0])])
    past = bisect_left(versions, now_us)
    return Lag(counts, (past * now_us - sum(versions[:past])) / 1_000_000)


class _Starts:
    """When the processes of producers began."""

    def __init__(self, envelopes: Iterable[Envelope]) -> None:
        self._starts = {epoch: _start_us(epoch) for epoch in {each.epoch.int for each in envelopes if each.epoch}}
        #: No version from then on needs a closer look.
        self._latest = max(self._starts.values(), default=0)

    def published(self, versions: Sequence[int], envelopes: Iterable[Envelope]) -> list[int]:
        """The versions of events, sorted, without those from before their producer's process began."""
        found = sorted(versions)
        place = bisect_left(found, self._latest)
        if not place:
            return found
        starts, latest = self._starts, self._latest
        earlier = [
            version
            for version, each in zip(versions, envelopes, strict=True)
            if version < latest and (each.epoch is None or version >= starts[each.epoch.int])
        ]
        return sorted(earlier) + found[place:]


def _start_us(epoch: int) -> int:
    """When the process with this epoch began, in microseconds; 0 where it does not tell, for it is another's and no UUIDv7."""
    return (epoch >> 80) * 1000 if epoch >> 76 & 0xF == 7 else 0
