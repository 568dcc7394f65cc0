"""Where the time of a batch goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Stopwatch"]


@dataclass
class Stopwatch:
    """Milliseconds by stage; a stage lasts until the next one is named."""

    now: Callable[[], float] = time.perf_counter
    stage_ms: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _stage: str = ""
    _since: float = 0.0

    def start(self, stage: str) -> None:
        """End the running stage and begin another."""
        at = self.now()
        if self._stage:
            self.stage_ms[self._stage] += (at - self._since) * 1000
        self._stage, self._since = stage, at
