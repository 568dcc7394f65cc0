"""`penstock worker --only`: events and maintenance in workers of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from tests.acceptance.witness import Witness, until
from tests.servers.celery_worker import WorkerProcess

pytestmark = pytest.mark.acceptance


def test_a_worker_does_only_what_it_is_for(
    witness: Witness, broker_url: str, worker_options: dict[str, object], new_worker: Callable[[], WorkerProcess]
) -> None:
    app = Celery(broker=broker_url, set_as_current=False)
    app.send_task("penstock.maintain.partitions", queue="penstock.maintenance")
    witness.publish(60)
    worker_options["worker_only"] = "ingest"
    ingest = new_worker()
    ingest.start()

    witness.wait_until_told()
    witness.wait_until_closed()
    witness.assert_all_stored()
    assert jobs_done(witness) == []
    assert answers(app, "active_queues", ingest) == ["penstock.events"]
    ingest.stop()

    witness.publish(40)
    worker_options["worker_only"] = "maintenance"
    maintenance = new_worker()
    maintenance.start()

    until(lambda: jobs_done(witness) == ["partitions"])
    assert witness.left_in_queue() == 3
    assert answers(app, "active_queues", maintenance) == ["penstock.maintenance"]
    # It stays deaf to events, however long it runs: it has nothing that would consume them.
    assert "penstock" not in answers(app, "stats", maintenance)


def jobs_done(witness: Witness) -> list[str]:
    return [job for (job,) in witness.query("SELECT job FROM penstock.maintenance_runs WHERE state = 'done'")]


def answers(app: Celery, command: str, worker: WorkerProcess) -> Any:
    """What the worker says; of queues their names."""
    inspect = app.control.inspect(destination=[worker.hostname], timeout=60, limit=1)
    answer = getattr(inspect, command)()[worker.hostname]
    return [queue["name"] for queue in answer] if command == "active_queues" else answer
