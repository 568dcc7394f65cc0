"""The jobs as Celery tasks, which beat starts."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from celery import Celery

from penstock_schemas.registry import Registry
from penstock_worker.maintenance.job import Done, Job, run_job
from penstock_worker.maintenance.jobs import all_jobs
from penstock_worker.settings import Settings

__all__ = ["register_maintenance"]

logger = logging.getLogger(__name__)


def register_maintenance(app: Celery, settings: Settings, registry: Registry) -> None:
    """Make a task of each job."""
    for job in all_jobs(settings).values():
        _register(app, settings, registry, job)


def _register(app: Celery, settings: Settings, registry: Registry, job: Job) -> None:
    @app.task(name=job.task, shared=False, ignore_result=True)  # type: ignore[untyped-decorator]  # celery has no types
    def run(**arguments: Any) -> dict[str, Any]:
        done = run_job(job, settings, registry, started_by="beat", arguments=arguments)
        _log(done)
        return asdict(done)

    run.__doc__ = job.summary


def _log(done: Done) -> None:
    if done.state == "done":
        logger.info("%s: %s", done.job, done.counts, extra={"action": "maintenance_done", "job": done.job})
    elif done.state == "away":
        logger.warning(
            "%s is left to the next run, the database is away: %s",
            done.job,
            done.error,
            extra={"action": "maintenance_away", "job": done.job},
        )
    else:
        logger.info("%s: %s", done.job, done.error, extra={"action": "maintenance_skipped", "job": done.job})
