"""`penstock_producers.publish`: a producer for those who want no object."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

import penstock_producers
from penstock_producers import NotConfigured, Producer, default
from penstock_producers.testing import MemoryProducer
from tests.producing import in_child
from tests.records import Pair


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("PENSTOCK_BROKER_URL", raising=False)
    monkeypatch.setattr(default, "_producer", None)
    yield
    if default._producer is not None:
        default._producer.close(0)


def test_without_a_broker_it_says_what_to_do() -> None:
    with pytest.raises(NotConfigured, match=r"set PENSTOCK_BROKER_URL, or call penstock_producers\.configure"):
        penstock_producers.publish(Pair(tenant="a", number=1))


def test_it_publishes_to_the_broker_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_BROKER_URL", "memory://")
    monkeypatch.setattr(default, "Producer", lambda _url, **_options: MemoryProducer())
    receipts = [penstock_producers.publish(Pair(tenant="a", number=number)) for number in range(3)]
    producer = penstock_producers.default_producer()
    assert isinstance(producer, MemoryProducer)
    assert [event.data["number"] for event in producer.events] == [0, 1, 2]
    assert [receipt.seq for receipt in receipts] == [0, 1, 2]


def test_threads_that_come_first_together_share_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_BROKER_URL", "redis://localhost:1/0")
    found: list[Producer] = []
    together = threading.Barrier(8)

    def ask() -> None:
        together.wait()
        found.append(penstock_producers.default_producer())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_configuring_again_closes_the_former() -> None:
    former = penstock_producers.configure("redis://localhost:1/0", name="former")
    latter = penstock_producers.configure("redis://localhost:1/0", name="latter")
    assert former.status().is_closed
    assert penstock_producers.default_producer() is latter
    assert latter.status().name == "latter"


def test_a_wrong_url_leaves_the_former_in_place() -> None:
    former = penstock_producers.configure("redis://localhost:1/0")
    with pytest.raises(ValueError, match="http://"):
        penstock_producers.configure("http://localhost")
    assert penstock_producers.default_producer() is former
    assert not former.status().is_closed


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_fork_while_a_thread_makes_the_producer_does_not_deadlock_the_child() -> None:
    is_held, is_over = threading.Event(), threading.Event()

    def hold() -> None:
        with default._lock:
            is_held.set()
            is_over.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    assert is_held.wait(60)
    try:
        assert in_child(lambda: default._lock.acquire(blocking=False))
    finally:
        is_over.set()
        holder.join()
