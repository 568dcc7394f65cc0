"""How a run reaches each broker, and what is said where it does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from celery import Celery
from kombu import Connection, Exchange, Queue

from penstock_worker.app import MAINTENANCE_QUEUE, create_app
from penstock_worker.errors import BrokerAway
from penstock_worker.maintenance.schedule import sender as sender_module
from penstock_worker.maintenance.schedule.sender import RunRefused, Sender
from penstock_worker.maintenance.schedule.tick import LONGEST_WAIT
from penstock_worker.settings import Settings
from penstock_worker.store.schedule import Row
from tests.servers.process import Controls

HELD = Row("held", "penstock.maintain.held", every_s=30, arguments={})


@pytest.fixture
def new_app(database_url: str) -> Callable[[str], Celery]:
    return lambda broker_url: create_app(Settings(broker_url=broker_url, database_url=database_url))


def messages(broker_url: str, name: str = MAINTENANCE_QUEUE) -> list[tuple[object, dict[str, object]]]:
    """Arguments and headers of what waits."""
    found: list[tuple[object, dict[str, object]]] = []
    with Connection(broker_url) as connection, connection.SimpleQueue(Queue(name, Exchange(name), name)) as queue:
        with suppress(queue.Empty):
            while message := queue.get(block=False):
                found.append((json.loads(message.body)[:2], message.headers))
                message.ack()
        return found


def test_a_run_is_a_message_of_the_task(new_app: Callable[[str], Celery], broker_url: str) -> None:
    """Keyword or positional arguments, for a task of ours or of somebody else's queue, however far its expiry is."""
    app = new_app(broker_url)
    expires = datetime.now(UTC) + LONGEST_WAIT
    with Sender(app).open() as send:
        send(HELD, expires)
        send(Row("report", "shop.report", arguments=[3], queue="shop"), None)

    ((arguments, headers),) = messages(broker_url)
    assert (arguments, headers["task"], headers["penstock_schedule"]) == ([[], {}], HELD.task, "held")
    assert datetime.fromisoformat(str(headers["expires"])) == expires
    ((arguments, headers),) = messages(broker_url, "shop")
    assert (arguments, headers["task"], headers["expires"]) == ([[3], {}], "shop.report", None)


def test_nobody_listens(new_app: Callable[[str], Celery]) -> None:
    for broker_url in ("redis://127.0.0.1:1/0", "amqp://guest:guest@127.0.0.1:1//"):
        with pytest.raises(BrokerAway, match="refused"), Sender(new_app(broker_url)).open():
            pass


def test_a_broker_that_froze_is_away(
    new_app: Callable[[str], Celery], broker_url: str, broker_server: Controls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after it was connected to; without limits it would be waited for for ever."""
    monkeypatch.setattr(sender_module, "_STEP_S", 1.0)
    sender = Sender(new_app(broker_url))
    try:
        with sender.open() as send:
            broker_server.pause()
            with pytest.raises(BrokerAway):
                send(HELD, None)
        with pytest.raises(BrokerAway), sender.open():
            pass
    finally:
        broker_server.resume()
    monkeypatch.undo()
    with sender.open() as send:
        send(HELD, None)


@pytest.mark.rabbitmq
def test_a_queue_that_is_another_one_is_refused_and_the_next_run_is_not(
    new_app: Callable[[str], Celery], rabbitmq_url: str
) -> None:
    with Connection(rabbitmq_url) as connection:
        connection.default_channel.queue_declare("shop", durable=False, auto_delete=True)
        with Sender(new_app(rabbitmq_url)).open() as send:
            with pytest.raises(RunRefused, match="PRECONDITION_FAILED"):
                send(Row("report", "shop.report", arguments={}, queue="shop"), None)
            send(HELD, None)
    assert len(messages(rabbitmq_url)) == 1


def test_arguments_that_are_not_the_tasks(new_app: Callable[[str], Celery], valkey_url: str) -> None:
    app = new_app(valkey_url)

    @app.task(name="shop.report")
    def report(days: int) -> None: ...

    with Sender(app).open() as send, pytest.raises(TypeError, match="weeks"):
        send(Row("report", "shop.report", arguments={"weeks": 1}), None)
    assert messages(valkey_url) == []
