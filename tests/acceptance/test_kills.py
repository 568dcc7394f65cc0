"""Kills and outages, each aimed by a failpoint: the test sees that it hit, and afterwards every event is where it belongs."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import redis
from celery import Celery
from pytest_celery import CeleryTestSetup

from penstock_schemas.wire import QUEUE
from penstock_worker.health import read_health
from penstock_worker.stack.process import is_alive
from tests.acceptance.witness import Witness, until
from tests.servers.celery_worker import Failpoints, WorkerProcess
from tests.servers.databases import PostgresServer
from tests.servers.rabbitmq import RabbitServer
from tests.servers.valkey import ValkeyServer

pytestmark = pytest.mark.acceptance

#: What `backlog` publishes, and what a batch holds.
EVENTS, BATCH = 1_000, 100
#: Lines that a worker writes about a database that is away until a test believes that it writes no others.
PROBES = 5


def strikes(action: str) -> pytest.MarkDecorator:
    """What the failpoints of a test do."""
    return pytest.mark.parametrize("failpoints", [action], indirect=True)


def each_on_one_broker(name: str, on_redis: str, on_rabbitmq: str) -> pytest.MarkDecorator:
    """Two ways to run a test that differ in the database only: one on each broker, for the broker sees the same both times."""
    pairs = [(on_redis, "redis"), pytest.param(on_rabbitmq, "rabbitmq", marks=pytest.mark.rabbitmq)]
    return pytest.mark.parametrize((name, "broker_url"), pairs, indirect=True)


@pytest.fixture
def backlog(witness: Witness, worker_options: dict[str, object]) -> Witness:
    """
    A thousand events that wait for a worker with one child, which takes a hundred of them at a time.

    Only a hundred: however slowly they come, a batch waits until it is full.
    """
    worker_options.update(concurrency=1, batch_max_age_s=1)
    witness.publish(EVENTS)
    return witness


@pytest.fixture
def short_leases(worker_options: dict[str, object]) -> None:
    """
    On Redis, what a killed worker had goes to others when its leases have run out.

    Other tests count exactly what was written: there a machine that stands still for a while must not cost a lease.
    """
    worker_options["lease_s"] = 3


@pytest.fixture
def struck(failpoints: Failpoints, armed_setup: CeleryTestSetup) -> WorkerProcess:
    """A worker whose first batch has come to the test's failpoint."""
    (name,) = failpoints.names
    until(lambda: failpoints.has_struck(name))
    worker: WorkerProcess = armed_setup.worker.container
    return worker


@each_on_one_broker("failpoints", "after_copy=wait", "before_commit=wait")
def test_a_child_killed_before_its_commit_has_stored_nothing(backlog: Witness, struck: WorkerProcess) -> None:
    (child,) = struck.children()
    assert (backlog.count_rows(), backlog.count_told()) == (0, 0)
    child.kill()
    backlog.wait_until_told()
    assert backlog.count_told() == EVENTS
    assert f"pid:{child.pid} exited with 'signal 9 (SIGKILL)'" in struck.logs()
    assert "WorkerLostError" in struck.logs()
    assert "a pool process died with <100 events in 5 messages, 0.0 MB>" in struck.logs()
    _assert_settled(backlog, struck)


@strikes("after_commit=wait")
def test_a_child_killed_after_its_commit_has_its_batch_written_twice(backlog: Witness, struck: WorkerProcess) -> None:
    (child,) = struck.children()
    assert (backlog.count_rows(), backlog.count_told()) == (BATCH, BATCH)
    child.kill()
    until(lambda: backlog.count_told() == EVENTS + BATCH)
    _assert_settled(backlog, struck)


@pytest.mark.usefixtures("short_leases")
@strikes("before_ack=wait")
def test_a_worker_killed_before_its_acks_leaves_them_to_the_next(
    backlog: Witness, struck: WorkerProcess, new_worker: Callable[[], WorkerProcess], worker_options: dict[str, object]
) -> None:
    children = struck.children()
    assert (backlog.count_rows(), backlog.count_told()) == (BATCH, BATCH)
    struck.kill()
    until(lambda: not any(map(is_alive, children)))
    worker_options["lease_s"] = 12  # of the second, which lives: what it has it must not lose, or it would be written once more
    second = new_worker()
    second.start()
    until(lambda: backlog.count_told() == EVENTS + BATCH)
    _assert_settled(backlog, second)


@pytest.mark.usefixtures("short_leases")
@strikes("before_commit=kill_parent")
def test_a_batch_whose_worker_dies_at_its_commit_is_written_again(
    backlog: Witness, struck: WorkerProcess, new_worker: Callable[[], WorkerProcess], worker_options: dict[str, object]
) -> None:
    """The kernel kills the child of a dead worker (Celery asks for it); its COMMIT may have been sent by then, or not."""
    until(lambda: struck.exit_code == -signal.SIGKILL)
    until(
        lambda: (
            not backlog.query(
                "SELECT FROM pg_stat_activity WHERE application_name = 'penstock' AND datname = current_database()"
            )
        )
    )
    written = backlog.count_told()
    assert (written, backlog.count_rows()) in {(0, 0), (BATCH, BATCH)}
    worker_options["lease_s"] = 12  # of the second, which lives: what it has it must not lose, or it would be written once more
    second = new_worker()
    second.start()
    until(lambda: backlog.count_told() == EVENTS + written)
    _assert_settled(backlog, second)


@strikes("before_commit=wait")
def test_sigterm_finishes_what_runs_and_gives_the_rest_back(
    backlog: Witness, struck: WorkerProcess, failpoints: Failpoints, new_worker: Callable[[], WorkerProcess]
) -> None:
    load = threading.Thread(target=backlog.publish, args=(EVENTS,))
    load.start()
    struck.send_signal(signal.SIGTERM)
    until(lambda: "Warm shutdown" in struck.recent_log())
    failpoints.release("before_commit")
    until(lambda: not struck.is_running)
    load.join(120)

    assert struck.exit_code == 0
    written = backlog.count_rows()
    assert written == BATCH  # the one that was running
    # All other messages, and each producer's last word; none of them in a lease. RabbitMQ takes them back when it sees the
    # connection's end, which may be after the worker's.
    until(lambda: backlog.left_on_broker() == (2 * EVENTS - written) // 20 + 2)
    second = new_worker()
    second.start()
    backlog.wait_until_told()
    assert backlog.count_told() == 2 * EVENTS  # nothing was written twice
    _assert_settled(backlog, second)


def test_sigterm_while_a_large_batch_is_handed_over(
    witness: Witness,
    new_worker: Callable[[], WorkerProcess],
    worker_options: dict[str, object],
    broker_url: str,
    tmp_path: Path,
) -> None:
    worker_options.update(concurrency=1, batch_max_age_s=1, health_folder=tmp_path)
    worker = new_worker()
    worker.start()
    until(lambda: any(not health.not_ready for health in read_health(tmp_path, QUEUE)))  # its child has looked at the database
    children = worker.children()
    for child in children:
        child.suspend()  # so that nobody reads: of a batch this large a part waits outside of the pipe
    witness.publish(BATCH, text="x" * 5_000)
    with Celery(broker=broker_url, set_as_current=False) as app:
        until(lambda: _running_batches(app, worker) == 1)
    worker.send_signal(signal.SIGTERM)
    until(lambda: "Warm shutdown" in worker.recent_log())
    for child in children:
        child.resume()
    until(lambda: not worker.is_running)

    assert worker.exit_code == 0
    assert witness.count_rows() == BATCH


def _running_batches(app: Celery, worker: WorkerProcess) -> int:
    stats = app.control.inspect([worker.hostname], timeout=10).stats() or {}
    return int(stats.get(worker.hostname, {}).get("penstock", {}).get("running_batches", 0))


@pytest.fixture
def how(request: pytest.FixtureRequest) -> str:
    """The end of the database: a restart or a crash."""
    return str(request.param)


@strikes("before_commit=wait")
@each_on_one_broker("how", "restart", "crash")
def test_a_database_that_restarts_is_waited_for(
    how: str, backlog: Witness, struck: WorkerProcess, failpoints: Failpoints, postgres_server: PostgresServer
) -> None:
    if how == "crash":
        postgres_server.kill()
    else:
        postgres_server.stop()
    failpoints.release("before_commit")
    until(lambda: "paused, the database is away" in struck.logs())
    postgres_server.start()
    until(lambda: "resumed, the database is back" in struck.logs())
    backlog.wait_until_told()
    assert backlog.count_told() == EVENTS
    _assert_settled(backlog, struck)


@pytest.mark.usefixtures("short_leases")
@strikes("before_commit=wait")
def test_a_broker_that_restarts_loses_nothing(
    backlog: Witness, struck: WorkerProcess, failpoints: Failpoints, broker_server: ValkeyServer | RabbitServer
) -> None:
    broker_server.stop()
    load = threading.Thread(target=backlog.publish, args=(EVENTS,))
    load.start()
    failpoints.release("before_commit")
    until(lambda: backlog.count_rows() == BATCH)
    broker_server.start()
    load.join(120)
    backlog.wait_until_told()
    _assert_settled(backlog, struck)


@pytest.mark.usefixtures("short_leases")
@strikes("before_commit=wait")
def test_a_broker_that_drops_its_clients_loses_nothing(
    backlog: Witness, struck: WorkerProcess, failpoints: Failpoints, broker_server: ValkeyServer | RabbitServer
) -> None:
    if isinstance(broker_server, RabbitServer):
        # It lists a connection some seconds after it was made.
        until(lambda: len(broker_server.close_connections()) >= 2)
    else:
        with redis.Redis.from_url(broker_server.url) as client:
            assert client.client_kill_filter(_type="normal", skipme=True) >= 2
    until(lambda: "Trying to re-establish the connection" in struck.logs())
    failpoints.release("before_commit")
    backlog.wait_until_told()
    _assert_settled(backlog, struck)


@pytest.mark.usefixtures("short_leases")
@strikes("before_commit=wait")
def test_a_broker_that_froze_is_consumed_again(
    backlog: Witness, struck: WorkerProcess, failpoints: Failpoints, broker_server: ValkeyServer | RabbitServer
) -> None:
    """The ack of a committed batch meets a broker that does not answer, while more batches wait for the pool."""
    broker_server.pause()
    try:
        failpoints.release("before_commit")
        until(lambda: backlog.count_rows() >= BATCH)  # acks to RabbitMQ wait for no answer, so there may be more
        if isinstance(broker_server, ValkeyServer):
            until(lambda: "acknowledged later" in struck.logs())
    finally:
        broker_server.resume()
    backlog.wait_until_told()
    backlog.publish(EVENTS)
    backlog.wait_until_told()
    _assert_settled(backlog, struck)


@strikes("message=poison")
def test_one_killer_among_five_hundred_is_the_only_one_that_dies(
    witness: Witness, failpoints: Failpoints, request: pytest.FixtureRequest
) -> None:
    failpoints.arm("message", b"a text that kills its reader")
    with witness.producer(events_per_message=1) as producer:
        for number in range(500):
            witness.publish_one(producer, "a text that kills its reader" if number == 250 else "hello")
    worker: WorkerProcess = request.getfixturevalue("celery_setup").worker.container
    main = psutil.Process(worker.pid)
    witness.wait_until_told()

    assert witness.reasons() == {("dead", "killed_its_reader"): 1}
    assert witness.query("SELECT count(*) FROM translation.tasks WHERE source_text <> 'hello'") == [(0,)]
    assert witness.query("SELECT count(*) FROM penstock.suspects") == [(0,)]
    assert is_alive(main)
    assert (main.pid, len(worker.children())) == (worker.pid, 2)
    _assert_settled(witness, worker, but=1)


def test_while_the_database_is_away_it_is_probed_and_nothing_else(
    witness: Witness, celery_setup: CeleryTestSetup, postgres_server: PostgresServer
) -> None:
    worker: WorkerProcess = celery_setup.worker.container
    witness.publish(EVENTS)
    witness.wait_until_told()
    stop = threading.Event()
    load = threading.Thread(target=_publish_until, args=(witness, stop))
    load.start()
    postgres_server.stop()
    away_since = time.monotonic()
    until(lambda: "paused, the database is away" in worker.logs())
    before, lines = _totals(celery_setup), worker.logs().count("\n")
    until(lambda: worker.logs().count("\n") >= lines + PROBES)
    lines = worker.logs().count("\n") - lines
    during, away_s = _totals(celery_setup), time.monotonic() - away_since
    postgres_server.start()
    back = _totals(celery_setup)
    until(lambda: "resumed, the database is back" in worker.logs())
    resumed = _totals(celery_setup)
    stop.set()
    load.join(120)
    witness.wait_until_told()

    # Not one batch, a probe a second, and a line for each of them.
    probes = during["penstock.probe"] - before["penstock.probe"]
    assert during["penstock.write_batch"] == before["penstock.write_batch"]
    assert lines - 3 <= probes <= away_s + 1
    # One may have been on its way already when the database came back.
    assert resumed["penstock.probe"] - back["penstock.probe"] <= 2
    assert witness.count_told() == len(witness.tasks)
    _assert_settled(witness, worker)


def _publish_until(witness: Witness, stop: threading.Event) -> None:
    """Fifty events a second."""
    with witness.producer(events_per_message=1) as producer:
        while not stop.wait(0.02):
            witness.publish_one(producer)


def _totals(setup: CeleryTestSetup) -> dict[str, int]:
    """Tasks that the worker was given, by name."""
    hostname = setup.worker.hostname()
    answer = setup.app.control.inspect(destination=[hostname], timeout=60).stats()
    return {"penstock.probe": 0, **answer[hostname]["total"]}


def _assert_settled(witness: Witness, worker: WorkerProcess, but: int = 0) -> None:
    """Rows, ledger and dead letters are right, and after an orderly end the broker holds nothing."""
    witness.assert_all_stored(but)
    witness.wait_until_closed()
    worker.kill(signal.SIGTERM)
    assert worker.exit_code == 0
    assert witness.left_on_broker() == 0
