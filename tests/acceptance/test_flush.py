"""`penstock flush`: what workers hold is committed when it returns, and nothing but the flush has written it."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from pytest_celery import CeleryTestSetup

from penstock_schemas.wire import QUEUE
from penstock_worker.health import read_health
from penstock_worker.settings import Settings
from tests.acceptance.witness import Witness, until
from tests.chaos.proxy import Proxy
from tests.commands import penstock_here
from tests.servers.celery_worker import Failpoints, WorkerProcess

pytestmark = pytest.mark.acceptance

#: A worker writes nothing by itself.
ONLY_BY_FLUSH: dict[str, object] = {"batch_max_age_s": 3_600, "batch_max_events": 5_000}

Flush = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def flush(database_url: str, broker_url: str) -> Flush:
    """The command, as a person runs it."""

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        urls = {"PENSTOCK_DATABASE_URL": database_url, "PENSTOCK_BROKER_URL": broker_url}
        return penstock_here("flush", *words, **(urls | environment))

    return run


def held(setup: CeleryTestSetup, *names: str) -> int:
    """Messages in the hands of workers."""
    answers = setup.app.control.inspect(destination=list(names), timeout=60, limit=len(names)).stats() or {}
    return sum(answer["penstock"]["held_messages"] for answer in answers.values())


def test_what_workers_hold_is_committed_by_a_flush_by_hand_and_by_beats(
    witness: Witness,
    worker_options: dict[str, object],
    new_worker: Callable[[], WorkerProcess],
    flush: Flush,
    request: pytest.FixtureRequest,
) -> None:
    worker_options.update(ONLY_BY_FLUSH)
    setup: CeleryTestSetup = request.getfixturevalue("celery_setup")
    names = [setup.worker.hostname()]
    witness.publish(60)
    until(lambda: held(setup, *names) == 4)  # the last word of the producer is a message too
    assert witness.count_told() == 0

    done = flush("--json")

    assert witness.count_rows() == 60
    witness.assert_all_stored()
    told = json.loads(done.stdout)
    assert (done.returncode, told["events"], told["messages"], told["unwritten"]) == (0, 61, 4, {})
    assert set(told["workers"]) == set(names)
    assert 0 < told["ms"] == told["workers"][names[0]]["ms"]
    ((job, state, counts),) = witness.query("SELECT job, state, counts FROM penstock.maintenance_runs")
    assert (job, state, counts) == ("flush", "done", {name: told[name] for name in counts})
    print(f"flush: {told['ms']} ms for {told['events']} events")  # see it with pytest -rP

    other = new_worker()
    other.start()
    names.append(other.hostname)
    witness.publish(40)
    until(lambda: held(setup, *names) == 3)

    done = flush()

    witness.assert_all_stored()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("41 events in 3 messages of 2 workers are committed, in ")

    witness.publish(20)
    until(lambda: held(setup, *names) == 2)
    setup.app.send_task("penstock.maintain.flush", queue="penstock.maintenance")  # as beat does

    witness.wait_until_told()
    witness.assert_all_stored()
    ((told,),) = until(
        lambda: witness.query("SELECT counts FROM penstock.maintenance_runs WHERE state = 'done' AND started_by = 'beat'")
    )
    assert (told["events"], list(told["workers"])) == (21, sorted(names))


@pytest.mark.parametrize("failpoints", ["before_commit=wait"], indirect=True)
def test_flush_waits_for_what_is_being_written(
    witness: Witness,
    worker_options: dict[str, object],
    failpoints: Failpoints,
    flush: Flush,
    request: pytest.FixtureRequest,
) -> None:
    """A batch that began before the call: it returns after its commit, and says so where that does not come in time."""
    worker_options.update(ONLY_BY_FLUSH | {"batch_max_events": 20, "concurrency": 1})
    setup: CeleryTestSetup = request.getfixturevalue("celery_setup")
    failpoints.arm("before_commit")
    witness.publish(20)
    until(lambda: failpoints.has_struck("before_commit") and held(setup, setup.worker.hostname()) == 2)

    late = flush("--timeout", "0.5")

    name = setup.worker.hostname()
    assert (late.returncode, late.stdout) == (1, "")
    assert late.stderr == f"penstock: not flushed: {name}: 2 of 2 messages are not committed\n"

    done: list[subprocess.CompletedProcess[str]] = []
    waiting = threading.Thread(target=lambda: done.append(flush()))
    waiting.start()
    try:
        until(lambda: witness.query("SELECT FROM penstock.maintenance_runs WHERE state = 'running'"))
        assert witness.count_rows() == 0
    finally:
        failpoints.release("before_commit")
        waiting.join(60)
    assert [(each.returncode, each.stderr) for each in done] == [(0, "")]
    witness.assert_all_stored()


def test_a_paused_worker_is_one_line(
    witness: Witness,
    worker_options: dict[str, object],
    database_url: str,
    flush: Flush,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    with closing(Proxy(witness.database_port)) as proxy:
        worker_url = database_url.replace(f":{witness.database_port}/", f":{proxy.port}/")
        worker_options.update(ONLY_BY_FLUSH | {"database_url": worker_url, "probe_s": 3_600, "ready_check_s": 3_600})
        worker_options["health_folder"] = tmp_path
        setup: CeleryTestSetup = request.getfixturevalue("celery_setup")
        name = setup.worker.hostname()
        # It has looked at the database, and does not look again: else a look finds it away before the flush does.
        until(lambda: any(not health.not_ready for health in read_health(tmp_path, QUEUE)))
        witness.publish(20)
        until(lambda: held(setup, name) == 2)
        proxy.is_closed = True
        proxy.cut()

        gone_back = flush()
        paused = flush("--timeout", "1.5", PENSTOCK_DATABASE_URL=worker_url)

    assert (gone_back.returncode, paused.returncode, gone_back.stdout + paused.stdout) == (1, 1, "")
    because = "it is paused, the database is away: "
    assert gone_back.stderr.startswith(f"penstock: not flushed: {name}: 2 messages went back to the queue, {because}")
    assert paused.stderr.startswith(f"penstock: not flushed: {name}: {because}")
    assert gone_back.stderr.count("\n") == paused.stderr.count("\n") == 1
    assert witness.count_rows() == 0


def test_without_workers_flush_says_so(flush: Flush, broker_url: str) -> None:
    nobody = flush("--timeout", "0.2")
    assert (nobody.returncode, nobody.stdout) == (1, "")
    assert nobody.stderr == f"penstock: nothing was flushed: no worker of {Settings().queue} answers\n"

    no_broker = flush(PENSTOCK_BROKER_URL="redis://127.0.0.1:1/0")
    assert (no_broker.returncode, no_broker.stderr.count("\n")) == (2, 1)
    assert no_broker.stderr.startswith("penstock: the broker cannot be reached: ")
