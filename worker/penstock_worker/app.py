"""
The Celery application: `celery -A penstock_worker.app worker --pool prefork -Q penstock.maintenance`.

The queue of events is not among its task queues: `IngestStep` consumes it, and two consumers of one queue would overwrite each
other on kombu's Redis connection.
"""

from __future__ import annotations

import gc
import logging
import warnings
from typing import Any

from celery import Celery
from celery.exceptions import CPendingDeprecationWarning
from celery.signals import worker_process_init, worker_ready

from penstock_worker.celery_app import celery_for
from penstock_worker.ingest import failpoints
from penstock_worker.ingest.control import register_control
from penstock_worker.ingest.step import IngestStep
from penstock_worker.ingest.tasks import register_tasks
from penstock_worker.ingest.watch_step import WatchStep
from penstock_worker.logs import take_over_celery
from penstock_worker.maintenance.pulse import JobsWatchStep, PulseStep
from penstock_worker.maintenance.schedule.results import note_results
from penstock_worker.maintenance.tasks import register_maintenance
from penstock_worker.settings import Settings, load_settings
from penstock_worker.store.retention.policy import registry_for

__all__ = ["MAINTENANCE_QUEUE", "app", "create_app"]  # noqa: F822  # `app` is made by __getattr__

MAINTENANCE_QUEUE = "penstock.maintenance"

#: By name: a worker need not load it.
SCHEDULER = "penstock_worker.maintenance.schedule.scheduler:PostgresScheduler"


def create_app(settings: Settings) -> Celery:
    """
    An application with the given settings.

    Raises:
        ConfigurationError: There is no broker to work with, or a failpoint is misspelt.
        DeclarationError: The record types cannot be loaded.
    """
    registry = registry_for(settings)
    # Said at every lost connection: that the setting below has the value we want.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning, module=r"celery\.worker")
    app = celery_for("penstock", settings.broker)
    app.penstock_settings = settings
    app.penstock_types = tuple(registry)
    app.conf.update(
        task_ignore_result=True,
        task_default_queue=MAINTENANCE_QUEUE,
        worker_pool="prefork",
        worker_concurrency=settings.concurrency,
        worker_send_task_events=True,
        # Connections come back by themselves, also at start and after a 406 (celery#6760).
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        broker_transport_options=_transport_options(settings),
        # A dead child is noticed at once: there is no result backend for which to wait.
        worker_lost_wait=0.1,
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_prefetch_count_reduction=False,
        worker_hijack_root_logger=True,
        worker_redirect_stdouts=False,
        # Control commands are answered soon or never: no queue of them outlives its worker by much.
        control_queue_expires=60.0,
        event_queue_expires=60.0,
        beat_scheduler=SCHEDULER,
        include=list(settings.tasks),
    )
    is_for_events = settings.worker_only != "maintenance"
    app.steps["worker"].add(WatchStep if is_for_events else JobsWatchStep)
    app.steps["consumer"].add(IngestStep if is_for_events else PulseStep)
    register_tasks(app, settings, registry)
    register_maintenance(app, settings, registry)
    register_control()
    note_results()
    failpoints.configure(settings.failpoints)
    return app


def _transport_options(settings: Settings) -> dict[str, Any]:
    """Timeouts, so that a frozen broker is noticed and not waited for for ever."""
    if settings.broker.startswith("redis"):
        return {
            "socket_timeout": 30,
            "socket_connect_timeout": settings.connect_timeout_s,
            "socket_keepalive": True,
            "health_check_interval": 15,
            "visibility_timeout": 3600,
        }
    # No publisher confirms: what Celery itself publishes are events and maintenance, which come again. RabbitMQ confirms
    # nothing while it has an alarm, and a loop that waits for the confirm of an event for Flower acknowledges no batch.
    return {"read_timeout": 60, "write_timeout": 60}


@worker_process_init.connect  # type: ignore[untyped-decorator]  # celery has no types
def _prepare_child(**_kwargs: Any) -> None:
    """
    A child logs what concerns it: a line per batch from Celery would say what Flower shows.

    What it was forked with stays for its life: the garbage collector need not look at it again and again.
    """
    gc.freeze()
    logging.getLogger("celery.app.trace").setLevel(logging.WARNING)


@worker_ready.connect  # type: ignore[untyped-decorator]  # celery has no types
def _prepare_main(**_kwargs: Any) -> None:
    """The same in the main process: one look at all of it held up the event loop, and with it acks, for a tenth of a second."""
    gc.collect()
    gc.freeze()


def __getattr__(name: str) -> Celery:
    """`app`, made when Celery's programs ask for it, whose log is ours: importing this module reads no settings."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    settings = load_settings()
    take_over_celery(settings)
    globals()["app"] = app = create_app(settings)
    return app
