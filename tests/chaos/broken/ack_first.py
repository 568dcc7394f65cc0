"""Messages are acknowledged when the pool gets them, not after the commit: what a killed child had is lost."""

from __future__ import annotations

from typing import Any

from penstock_worker.ingest.batch import Batch
from penstock_worker.ingest.step import IngestStep

_submit, _on_written, _on_away = IngestStep._submit, IngestStep.on_written, IngestStep.on_away


def _submit_and_ack(step: IngestStep, batch: Batch) -> None:
    _submit(step, batch)
    step.source.ack(batch.deliveries)


def _answer(step: IngestStep, batch: Batch, result: dict[str, Any]) -> None:
    _on_written(step, Batch([], batch.trigger), result)


def _forget(*_: Any) -> None:
    pass


def _pause(step: IngestStep, batch: Batch, reason: str) -> None:
    _on_away(step, Batch([], batch.trigger), reason)


IngestStep._submit = _submit_and_ack  # type: ignore[method-assign,assignment]
IngestStep.on_written = _answer  # type: ignore[method-assign,assignment]
IngestStep.on_lost = IngestStep.on_failed = _forget  # type: ignore[method-assign,assignment]
IngestStep.on_away = _pause  # type: ignore[method-assign,assignment]
