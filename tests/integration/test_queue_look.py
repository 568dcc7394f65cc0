"""What the queue is said to hold, where its messages cannot be looked at."""

from __future__ import annotations

from typing import Any

import pytest
from kombu import Connection

from penstock_schemas.topology import queues
from penstock_schemas.wire import QUEUE
from penstock_worker import queue_look
from penstock_worker.settings import Settings
from tests.integration.test_sources import publish


def test_how_full_queues_are(broker_url: str) -> None:
    publish(broker_url, 3)
    settings = Settings(broker_url=broker_url)
    consumers = 0 if broker_url.startswith("amqp") else None
    assert queue_look.count_messages(settings, [QUEUE, "penstock.maintenance"]) == [
        queue_look.QueueCount(QUEUE, waiting=3, held=0, consumers=consumers),
        queue_look.QueueCount("penstock.maintenance", waiting=0, held=None, consumers=consumers),
    ]


@pytest.mark.rabbitmq
def test_what_goes_back_between_two_questions_is_not_overlooked(rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Connection(rabbitmq_url) as connection, connection.channel() as channel:
        for name, arguments in queues(QUEUE).items():
            channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
        channel.basic_qos(0, 1, False)
        channel.basic_consume(QUEUE, callback=lambda _message: None)
        publish(rabbitmq_url, 1)
        connection.drain_events(timeout=60)  # in hand, and the queue is empty

        def answer_after_giving_back(_settings: Settings, _expected: int | None = None) -> dict[str, dict[str, Any]]:
            publish(rabbitmq_url, 1)
            return {"worker@host": {"held_messages": 0}}

        monkeypatch.setattr(queue_look, "workers_stats", answer_after_giving_back)
        look = queue_look.look_at_queue(Settings(broker_url=rabbitmq_url))
    assert (look.waiting_messages, look.held_messages, look.may_hide_events) == (1, 0, True)
