"""A worker that stands still says so: once, with its stacks, where people look; and says when it goes on."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from penstock_producers import Producer
from penstock_schemas.records.translation import TranslationSession
from tests.acceptance.witness import until
from tests.commands import penstock

pytestmark = pytest.mark.acceptance

STANDS_STILL = "the worker stands still: "


@pytest.fixture
def worker_options(tmp_path) -> dict[str, object]:
    return {"stalled_after_s": 2, "health_folder": tmp_path / "health"}


class People:
    """What somebody in the worker's folder sees."""

    def __init__(self, broker_url, database_url, options):
        self._settings = {
            "PENSTOCK_BROKER_URL": broker_url,
            "PENSTOCK_DATABASE_URL": database_url,
            "PENSTOCK_HEALTH_FOLDER": str(options["health_folder"]),
        }

    def see(self, *words: str) -> tuple[int, Any]:
        done = penstock(*words, "--json", **self._settings)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)["workers"]

    def read(self, *words: str) -> str:
        return " ".join(penstock(*words, **self._settings).stdout.split())


@pytest.fixture
def people(broker_url, database_url, worker_options) -> People:
    return People(broker_url, database_url, worker_options)


def publish(broker_url):
    with Producer(broker_url) as producer:
        producer.publish(TranslationSession(session_id="s"))


@pytest.mark.parametrize("failpoints", ["before_ack=wait"], indirect=True)
@pytest.mark.parametrize("broker_url", [pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)], indirect=True)
def test_an_event_loop_that_hangs(broker_url, new_worker, failpoints, people):
    """It answers nobody, so the health file tells it."""
    worker = new_worker()
    worker.start()
    until(lambda: people.see("health")[0] == 0)
    failpoints.arm("before_ack")

    publish(broker_url)
    until(lambda: STANDS_STILL in worker.logs())

    ill, (told,) = people.see("health")
    _, (seen,) = people.see("status")
    failpoints.release("before_ack")
    until(lambda: "the worker goes on" in worker.logs())
    well, _ = people.see("health")

    assert (ill, told["worker"], told["is_stalled"]) == (1, worker.hostname, True)
    assert told["trouble"].startswith("the event loop has not turned for")
    assert (seen["name"], seen["answers"], seen["trouble"]) == (worker.hostname, False, told["trouble"])
    assert well == 0
    log = worker.logs()
    assert log.count(STANDS_STILL) == 1
    assert "--- MainThread" in log
    assert "failpoints.py" in log.partition(STANDS_STILL)[2]
    worker.stop()
    assert people.see("health") == (1, [])  # an orderly end leaves no file


@pytest.fixture
def deaf(valkey_url):
    """Takes from the worker what it consumes with, and gives it back."""
    with redis.Redis.from_url(valkey_url) as client:
        yield lambda is_deaf: client.execute_command("ACL", "SETUSER", "default", "-rpop" if is_deaf else "+rpop")
        client.execute_command("ACL", "SETUSER", "default", "+rpop")


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
def test_a_worker_that_consumes_nothing(broker_url, new_worker, people, deaf, witness):
    """Its event loop turns, so it answers; and it is in the list of what it says of itself."""
    worker = new_worker()
    worker.start()
    until(lambda: people.see("health")[0] == 0)
    deaf(True)

    witness.publish(2, events_per_message=1)
    until(lambda: STANDS_STILL in worker.logs())

    ill, _ = people.see("health")
    _, (seen,) = people.see("status")
    text = people.read("status")
    deaf(False)
    until(lambda: "the worker goes on" in worker.logs())
    witness.wait_until_told()

    assert ill == 1
    assert (seen["name"], seen["answers"]) == (worker.hostname, True)
    assert seen["trouble"].startswith("2 messages wait in the queue, and none has been taken for")
    assert "STANDS STILL" in text
    assert worker.logs().count(STANDS_STILL) == 1
    witness.assert_all_stored()
