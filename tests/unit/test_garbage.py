"""What the garbage collector need not look at again and again."""

from __future__ import annotations

import gc

from celery.signals import worker_ready

import penstock_worker.app  # noqa: F401  # connects what is tried here


def test_what_a_worker_started_with_stays_for_its_life() -> None:
    before = gc.get_freeze_count()
    try:
        worker_ready.send(sender=None)
        frozen = gc.get_freeze_count() - before
    finally:
        gc.unfreeze()

    assert frozen > 0
