"""The job that makes the partitions of the months ahead."""

from __future__ import annotations

import logging
from typing import Any

import psycopg

from penstock_schemas.record import RecordType
from penstock_worker.maintenance.job import Work
from penstock_worker.store.partitions import ensure_partitions

__all__ = ["make_partitions"]

logger = logging.getLogger(__name__)


def make_partitions(work: Work) -> dict[str, Any]:
    """Make the partitions that append-only types lack; they are there already, usually. Safe to run twice."""
    return {"made": [name for record in work.registry.values() for name in _make(work, record)]}


def _make(work: Work, record: RecordType) -> list[str]:
    try:
        return ensure_partitions(work.connection, record, work.now)
    except psycopg.errors.LockNotAvailable:
        logger.info(
            "partitions of %s are made at the next run, the table is in use", record.name, extra={"action": "partitions_later"}
        )
        return []
