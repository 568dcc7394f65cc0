"""What every worker tells, whatever it does: registered by who serves its metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from penstock_worker.metrics import family

__all__ = ["WorkerCollector"]


class WorkerCollector(Collector):
    """
    Args:
        find_pool: Celery's pool of the worker, None before there is one.
        is_ready: What /ready says.
        wall: Seconds since 1970.
    """

    def __init__(
        self, find_pool: Callable[[], Any], is_ready: Callable[[], bool], wall: Callable[[], float] = time.time
    ) -> None:
        self._find_pool, self._is_ready = find_pool, is_ready
        self._started_at = wall()

    def collect(self) -> Iterator[Metric]:
        """Looked at now, from the thread that asks."""
        yield family("penstock_build_info", {version("penstock"): 1})
        yield family("penstock_worker_started_timestamp_seconds", self._started_at)
        yield family("penstock_worker_ready", self._is_ready())
        yield family("penstock_worker_children", self._count_children())

    def _count_children(self) -> int:
        # Celery's own count is that of the processes there should be.
        pool = getattr(self._find_pool(), "_pool", None)
        return len(getattr(pool, "_pool", None) or ())
