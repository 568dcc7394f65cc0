"""What the pool is working on for the step, and how each piece reports back."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock_worker.ingest.batch import Batch
    from penstock_worker.ingest.step import IngestStep

__all__ = ["Flight", "Probe"]

_UNREADABLE = "its answer was unreadable"


class Flight:
    """A batch in the pool; an `Ending` of its request."""

    def __init__(self, step: IngestStep, batch: Batch) -> None:
        self._step, self._batch, self.size = step, batch, batch.size

    def on_done(self, result: Any) -> None:
        """See `Ending`. The task answers with counts, or with why the database is away."""
        if isinstance(result, dict) and "away" not in result:
            self._end(partial(self._step.on_written, self._batch, result))
        else:
            reason = result["away"] if isinstance(result, dict) else _UNREADABLE
            self._end(partial(self._step.on_away, self._batch, reason))

    def on_lost(self) -> None:
        """See `Ending`."""
        self._end(partial(self._step.on_lost, self._batch))

    def on_failed(self) -> None:
        """See `Ending`."""
        self._end(partial(self._step.on_failed, self._batch))

    def _end(self, end: partial[None]) -> None:
        # The place in the pool is free whatever happens next, or a broker's error here would cost it for ever.
        self._step.in_flight.discard(self)
        try:
            end()
        finally:
            self._step.on_ended()


class Probe:
    """A look at the database from the pool; an `Ending` of its request."""

    def __init__(self, step: IngestStep) -> None:
        self._step = step

    def on_done(self, result: Any) -> None:
        """See `Ending`."""
        self._step.on_probed(result.get("away") if isinstance(result, dict) else _UNREADABLE)

    def on_lost(self) -> None:
        """See `Ending`."""
        self._step.on_probed("the probing process died")

    def on_failed(self) -> None:
        """See `Ending`."""
        self._step.on_probed("the probe raised, see the log above")
