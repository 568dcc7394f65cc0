"""What those hear who listen on `penstock.changes`, on both brokers; and that nobody has to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.simple import SimpleQueue

from penstock_worker.store.recovery import claim, release
from tests.recovering import SESSION, Ward, minutes


@pytest.fixture
def ward(database_url: str, broker_url: str) -> Iterator[Ward]:
    ward = Ward(database_url, broker_url)
    ward.session("s1")
    yield ward
    ward.close()


@pytest.fixture
def listen(broker_url: str) -> Iterator[Callable[[str], SimpleQueue]]:
    """Makes subscribers; they end with the test."""
    with Connection(broker_url) as connection:
        exchange = Exchange("penstock.changes", type="topic", durable=True)

        def bind(pattern: str) -> SimpleQueue:
            return SimpleQueue(connection, Queue(f"of.{pattern}", exchange, routing_key=pattern, durable=True))

        yield bind


def heard(queue: SimpleQueue, count: int) -> list[Any]:
    """So many messages, and then nothing."""
    found = []
    for _ in range(count):
        message = queue.get(timeout=60)
        message.ack()
        found.append(message.payload)
    with pytest.raises(queue.Empty):
        queue.get_nowait()
    return found


def test_each_subscriber_hears_what_is_incomplete_again_and_again(ward: Ward, listen: Callable[[str], SimpleQueue]) -> None:
    mine, everything, others = listen("translation.session.incomplete"), listen("#"), listen("orchestration.*.incomplete")
    offers = [ward.scan(minutes(31 + later))["offered"] for later in (0, 0.9, 1, 2.9, 3, 6.9, 7, 22, 37)]
    assert offers == [1, 0, 1, 0, 1, 0, 1, 1, 1], "after 1, 2, 4 and 8 minutes, but not more than 15"
    (found,) = ward.open()
    said = {
        "event": "incomplete",
        "type": SESSION,
        "key": ["s1"],
        "recovery": found.id,
        "last_activity": found.last_activity.isoformat(),
    }
    expected = [said | {"offer": number} for number in range(1, 7)]
    assert heard(mine, 6) == expected
    assert heard(everything, 6) == expected
    assert heard(others, 0) == []


def test_nobody_needs_to_listen(ward: Ward) -> None:
    assert ward.scan(minutes(31)) == {"found": 1, "offered": 1, "pages": 1}


def test_what_is_claimed_is_offered_again_when_it_is_given_back(ward: Ward, listen: Callable[[str], SimpleQueue]) -> None:
    queue = listen("#")
    ward.scan(minutes(31))
    (found,) = ward.open()
    taken = claim(ward.connection, found.id, by="me", for_s=3_600, now=ward.start + minutes(31))
    assert taken
    assert ward.scan(minutes(40))["offered"] == 0
    release(ward.connection, found.id, taken.token, now=ward.start + minutes(41))
    assert ward.scan(minutes(42))["offered"] == 1
    assert [message["offer"] for message in heard(queue, 2)] == [1, 2]


def test_what_the_broker_did_not_take_is_announced_at_the_next_scan(
    ward: Ward, broker_url: str, listen: Callable[[str], SimpleQueue]
) -> None:
    queue = listen("#")
    away = "redis://127.0.0.1:1/0" if broker_url.startswith("redis") else "amqp://127.0.0.1:1//"
    done = ward.scan(minutes(31), broker_url=away)
    assert (done["found"], done["offered"], ward.found()) == (1, 0, ["s1"]), "it is recorded before it is announced"
    assert "refused" in done["unannounced"]
    assert ward.scan(minutes(31.1)) == {"found": 0, "offered": 1, "pages": 1}
    assert heard(queue, 1)[0]["offer"] == 1
