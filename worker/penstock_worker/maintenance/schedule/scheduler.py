"""Celery's side of beat: `celery -A penstock_worker.app beat` uses it too."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from celery import Celery
from celery.beat import Scheduler

from penstock_worker.errors import ConfigurationError
from penstock_worker.maintenance.jobs import all_jobs
from penstock_worker.maintenance.schedule.sender import Sender
from penstock_worker.maintenance.schedule.tick import LOOK_S, Beat
from penstock_worker.maintenance.schedule.timing import LONGEST_S, SHORTEST_S
from penstock_worker.maintenance.schedule.watched import WatchedBeat
from penstock_worker.settings import Settings
from penstock_worker.store.connection import connect_with
from penstock_worker.store.schedule import Default

__all__ = ["PostgresScheduler", "beat_of", "defaults_of"]

logger = logging.getLogger(__name__)


class PostgresScheduler(Scheduler):  # type: ignore[misc]  # celery has no types
    """
    The schedule is the table `penstock.schedule`; Celery's own, `beat_schedule`, is not looked at, and no file is written.

    `lazy` objects are made for the line in Celery's banner only.
    """

    max_interval = LOOK_S
    _beat: WatchedBeat | None = None

    def setup_schedule(self) -> None:
        self._beat = WatchedBeat(self.app.penstock_settings, beat_of(self.app))
        try:
            self._beat.start()
        except ConfigurationError as exc:
            logger.critical("%s", exc)
            raise SystemExit(2) from exc

    def tick(self, **_kwargs: Any) -> float:
        assert self._beat is not None  # a lazy one never ticks
        return self._beat.tick()

    def close(self) -> None:
        super().close()
        if self._beat is not None:
            self._beat.close()

    @property
    def info(self) -> str:
        return "    . schedule -> penstock.schedule in PostgreSQL, see `penstock schedule list`"


def beat_of(app: Celery) -> Beat:
    """
    A beat that sends with this application.

    Raises:
        ConfigurationError: There is no database.
    """
    settings: Settings = app.penstock_settings
    settings.database  # noqa: B018  # raises where it is not set
    return Beat(connect_with(settings), Sender(app), defaults_of(settings), f"{socket.gethostname()}:{os.getpid()}")


def defaults_of(settings: Settings) -> dict[str, Default]:
    """The jobs that are run by themselves, as often as the settings say."""
    return {
        job.name: Default(job.name, job.task, _bounded(job.every_s), job.cron)
        for job in all_jobs(settings).values()
        if job.every_s is not None or job.cron is not None
    }


def _bounded(every_s: float | None) -> float | None:
    return None if every_s is None else min(max(every_s, SHORTEST_S), LONGEST_S)
