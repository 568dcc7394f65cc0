"""Everything works with the broker users of deploy/; tests/integration/test_broker_users.py has what they are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import kombu
import pytest
from celery import Celery

from penstock_producers import Producer
from penstock_schemas.records.translation import TranslationSession
from penstock_worker.app import create_app
from penstock_worker.maintenance.announce import open_announcer
from penstock_worker.maintenance.flush import flush_workers
from penstock_worker.maintenance.schedule.sender import Sender
from penstock_worker.queue_look import look_at_queue
from penstock_worker.settings import Settings
from penstock_worker.store.schedule import Row
from tests.acceptance.witness import Witness, until
from tests.broker_users import let_in, send_away
from tests.servers.celery_worker import WorkerProcess
from tests.servers.rabbitmq import RabbitServer
from tests.servers.valkey import ValkeyServer

pytestmark = pytest.mark.acceptance

#: Seconds in which a busy machine surely answers.
LONG_S = 120.0


@pytest.fixture
def users(broker_server: ValkeyServer | RabbitServer, broker_url: str) -> Iterator[dict[str, str]]:
    yield let_in(broker_server, broker_url)
    send_away(broker_server, broker_url)


def test_a_publisher_and_a_worker_do_all_their_work(
    users: dict[str, str],
    database_url: str,
    broker_url: str,
    witness: Witness,
    worker_options: dict[str, object],
    new_worker: Callable[[], WorkerProcess],
) -> None:
    settings = Settings(broker_url=users["worker"], database_url=database_url)
    worker_options["broker_url"] = users["worker"]
    worker = new_worker()
    worker.start()

    # Journal: an event leaves the disk when its receipt has come back, by the publisher's own mailbox.
    with Producer(users["publisher"], name="service", durability="journal") as producer:
        receipt = producer.publish(TranslationSession(session_id="a"))
        assert receipt.wait(LONG_S) == "stored"
        assert not producer.status().dropped

    # What commands ask workers, what Flower hears of them, what beat sends, what services are told.
    with create_app(settings) as app:
        assert worker.hostname in (app.control.inspect(destination=[worker.hostname], timeout=LONG_S, limit=1).ping() or {})
        assert worker.hostname in flush_workers(settings, LONG_S)["workers"]
        assert look_at_queue(settings).waiting_messages == 0
        assert hears(app)
        with Sender(app).open() as send:
            send(Row("partitions", "penstock.maintain.partitions", queue="penstock.maintenance"), None)
    done = "SELECT state FROM penstock.maintenance_runs WHERE job = 'partitions'"
    until(lambda: witness.query(done) == [("done",)])
    assert is_told(settings, broker_url)
    assert "permission" not in worker.logs().lower()
    assert "ACCESS_REFUSED" not in worker.logs()


def is_told(settings: Settings, listener_url: str) -> bool:
    """Whether an announcement of the worker's side reaches a service that listens."""
    told: list[Any] = []
    queue = kombu.Queue(
        "translator.incomplete", kombu.Exchange("penstock.changes", type="topic"), "translation.session.incomplete"
    )
    with (
        kombu.Connection(listener_url) as connection,
        connection.Consumer(queue, callbacks=[lambda body, _: told.append(body)]),
    ):
        with open_announcer(settings) as announcer:
            announcer.announce("translation.session", "incomplete", {})
        connection.drain_events(timeout=LONG_S)
    return bool(told)


def hears(app: Celery) -> bool:
    """Whether an event of a worker comes, as Flower hears it."""
    heard: list[Any] = []

    def note(event: Any) -> None:
        heard.append(event)
        receiver.should_stop = True

    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": note})
        receiver.capture(timeout=LONG_S, wakeup=True)
    return bool(heard)
