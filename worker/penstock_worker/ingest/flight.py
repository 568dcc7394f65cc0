"""What the pool is working on for the step, and how each piece reports back."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.worker.state import active_requests

from penstock_worker.ingest.measures import MEASURES, Measures

if TYPE_CHECKING:
    from penstock_worker.ingest.batch import Batch
    from penstock_worker.ingest.metrics import End
    from penstock_worker.ingest.step import IngestStep

__all__ = ["Flight", "Probe"]

_UNREADABLE = "its answer was unreadable"


class Flight:
    """
    A batch in the pool; an `Ending` of its request.

    Args:
        step: Hears how it ends.
        batch: What is written.
        submit: Hands it to the pool, with this as its ending, and returns the request.
    """

    def __init__(self, step: IngestStep, batch: Batch, submit: Callable[[Flight], Any]) -> None:
        self._step, self.batch = step, batch
        self._is_over = False
        #: When the pool got it, by the monotonic clock.
        self.began_at = time.monotonic()
        self._request: Any = submit(self)

    def is_gone(self, *, is_reconnected: bool) -> bool:
        """
        Whether Celery has thrown it away, so that its end will never be heard.

        At a lost connection Celery forgets what no child has begun. What has ended is heard of later, unless the event loop was
        reset meanwhile (`is_reconnected`).
        """
        if self._request in active_requests:
            return False
        return is_reconnected or not self._request.acknowledged

    def abandon(self) -> Batch:
        """Stop listening, and return the batch."""
        self._let_go()
        return self.batch

    def on_done(self, result: Any) -> None:
        """See `Ending`. The task answers with counts, or with why the database is away."""
        if isinstance(result, dict) and "away" not in result:
            took_s, line = time.monotonic() - self.began_at, result.pop(MEASURES, "")
            count = partial(self._count_written, took_s, result.get("ms", {}), line)
            self._end(partial(self._step.on_written, self.batch, result), count)
        else:
            reason = result["away"] if isinstance(result, dict) else _UNREADABLE
            self._end(partial(self._step.on_away, self.batch, reason), partial(self._count, "away"))

    def on_lost(self) -> None:
        """See `Ending`."""
        self._end(partial(self._step.on_lost, self.batch), partial(self._count, "lost"))

    def on_failed(self) -> None:
        """See `Ending`."""
        self._end(partial(self._step.on_failed, self.batch), partial(self._count, "failed"))

    def _let_go(self) -> None:
        """
        It is over. The request, which knows this as its ending, is forgotten: else both would be there until the garbage
        collector comes by, with all messages.
        """
        self._is_over = True
        self._request = None

    def _count_written(self, took_s: float, stage_ms: dict[str, float], line: str) -> None:
        self._step.metrics.count_written(self.batch, took_s, stage_ms, Measures.parse(line))

    def _count(self, end: End) -> None:
        self._step.metrics.count_end(self.batch, end)

    def _end(self, end: partial[None], count: partial[None]) -> None:
        if self._is_over:
            return
        self._let_go()
        # The place in the pool is free whatever happens next. After an error of the broker nothing new is begun at once: the
        # worker is about to reconnect, and Celery throws away what no child has begun by then.
        self._step.in_flight.discard(self)
        try:
            end()
        except Exception:
            self._step.go_on_later()
            raise
        finally:
            count()  # also what could not be acknowledged: it is committed
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
        self._step.metrics.lost_children.inc()
        self._step.on_probed("the probing process died")

    def on_failed(self) -> None:
        """See `Ending`."""
        self._step.on_probed("the probe raised, see the log above")
