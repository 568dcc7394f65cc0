"""Where a bench's own time goes: seconds by what it was doing. They stand in its result, as `phases_s`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = ["Phases"]


@dataclass
class Phases:
    """Seconds by phase so far; what comes again is added, what is in no phase is in none."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """The block's time counts as this phase's, also when it fails; phases do not lie in one another."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def told(self) -> dict[str, float]:
        """For the result, the longest first."""
        longest_first = sorted(self.seconds.items(), key=lambda phase: -phase[1])
        return {name: round(seconds, 1) for name, seconds in longest_first}
