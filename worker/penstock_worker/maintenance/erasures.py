"""The job that ends what erasures began: children that came late, and erasures that were stopped half-way."""

from __future__ import annotations

from typing import Any

from penstock_worker.maintenance.job import Work
from penstock_worker.store.privacy.erase import finish_erasures
from penstock_worker.store.privacy.tombstones import Eraser

__all__ = ["finish"]

#: Erased rows whose children one run looks for.
PARENTS_PER_RUN = 20_000


def finish(work: Work) -> dict[str, Any]:
    """
    Empty children of erased rows, at most those of `PARENTS_PER_RUN`; safe to run twice.

    An erasure that has not ended after ten minutes, and is not under way, is done to its end.

    Returns:
        Rows by type, and `finished` erasures.
    """
    return dict(finish_erasures(Eraser(work.connection, work.registry), work.settings, PARENTS_PER_RUN))
