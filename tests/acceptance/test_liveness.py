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

STANDS_STILL, GOES_ON = "the worker stands still: ", "the worker goes on"
#: A slow machine may make it say so on its own: tests look for the episode that they caused.
HANGS = STANDS_STILL + "the event loop has not turned"


@pytest.fixture
def worker_options(tmp_path) -> dict[str, object]:
    return {"stalled_after_s": 3, "health_folder": tmp_path / "health"}


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

    def trouble(self) -> str:
        """That of the one worker."""
        return "".join(worker["trouble"] or "" for worker in self.see("health")[1])

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
    until(lambda: HANGS in worker.logs())

    ill, (told,) = people.see("health")
    _, (seen,) = people.see("status")
    failpoints.release("before_ack")
    until(lambda: GOES_ON in worker.logs().partition(HANGS)[2])
    until(lambda: people.see("health")[0] == 0)

    assert (ill, told["worker"], told["is_stalled"]) == (1, worker.hostname, True)
    assert told["trouble"].startswith("the event loop has not turned for")
    assert (seen["name"], seen["answers"], seen["trouble"][:14]) == (worker.hostname, False, "the event loop")
    episode = worker.logs().partition(HANGS)[2].partition(GOES_ON)[0]
    assert STANDS_STILL not in episode  # once
    assert "--- MainThread" in episode
    assert "failpoints.py" in episode
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
    until(lambda: "messages wait in the queue" in people.trouble())
    began = worker.logs().rpartition(STANDS_STILL)

    seen = until(lambda: [each for each in people.see("status")[1] if each["answers"]])[0]
    text = people.read("status")
    deaf(False)
    until(lambda: people.see("health")[0] == 0)
    witness.wait_until_told()

    assert began[1], "it stands still without a line in the log"
    assert (seen["name"], seen["answers"]) == (worker.hostname, True)
    assert "messages wait in the queue, and none has been taken for" in seen["trouble"]
    assert "STANDS STILL" in text
    assert GOES_ON in worker.logs()
    witness.assert_all_stored()
