"""A service's producers among its own metrics: what a scrape tells, of whom, and for how long."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import pytest
from prometheus_client import CollectorRegistry

from penstock_producers import drops
from penstock_producers.metrics import collect_from
from penstock_producers.testing import MemoryProducer
from tests.producing import eventually, in_child
from tests.records import Pair

# Python 3.12 warns at every fork under threads; that it is safe is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

PAIR = Pair(tenant="a", number=1)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry(auto_describe=True)


def told(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"penstock_producer_{name}", {"producer": "test", **labels})


def everything(registry: CollectorRegistry) -> dict[tuple[str, str | None], float]:
    """What is told of the producer "test", by name and reason, as far as it is not 0."""
    samples = [sample for family in registry.collect() for sample in family.samples if sample.labels["producer"] == "test"]
    names = [(sample.name.removeprefix("penstock_producer_"), sample.labels.get("reason")) for sample in samples]
    return {name: sample.value for name, sample in zip(names, samples, strict=True) if sample.value}


def test_a_scrape_tells_what_the_status_says(registry: CollectorRegistry) -> None:
    with MemoryProducer(max_events=3, linger_s=1_000, retry_max_s=0.1) as producer:
        collect_from(producer, registry)
        assert everything(registry) == {}

        producer.transport.is_away = True
        for number in range(5):
            producer.publish(Pair(tenant="a", number=number))
        producer.flush(0)
        eventually(lambda: told(registry, "breaker_open") == 1)
        found, status = everything(registry), producer.status()
        assert found.pop(("oldest_pending_seconds", None)) <= status.oldest_age_s
        assert found.pop(("failures", None)) >= 3
        assert found == {
            ("accepted_total", None): 5,
            ("dropped_total", "buffer_full"): 2,
            ("pending_events", None): 3,
            ("pending_bytes", None): status.pending_bytes,
            ("breaker_open", None): 1,
        }

        producer.transport.is_away = False
        assert producer.sync(60)
        assert told(registry, "sync_seconds") == producer.status().sync_latency_s
        assert (told(registry, "confirmed_total"), told(registry, "pending_events")) == (3, 0)
        assert (told(registry, "breaker_open"), told(registry, "failures")) == (0, 0)


def test_every_reason_is_told_before_the_first_drop(registry: CollectorRegistry) -> None:
    constants = {value for name, value in vars(drops).items() if name.isupper() and isinstance(value, str)}
    with MemoryProducer() as producer:
        collect_from(producer, registry)
        assert {reason for reason in constants if told(registry, "dropped_total", reason=reason) == 0} == constants


def test_producers_of_one_name_are_told_as_one(registry: CollectorRegistry) -> None:
    with MemoryProducer(linger_s=1_000) as one, MemoryProducer(linger_s=1_000) as two, MemoryProducer(name="other") as other:
        for producer in (one, two, other, one):
            collect_from(producer, registry)
        for producer in (one, two, two, other):
            producer.publish(PAIR)
        assert (told(registry, "accepted_total"), told(registry, "pending_events")) == (3, 3)
        before, oldest, after = one.status(), told(registry, "oldest_pending_seconds"), one.status()
        assert oldest is not None
        assert before.oldest_age_s <= oldest <= after.oldest_age_s, "that of the one that waits longest"
        assert told(registry, "accepted_total", producer="other") == 1


def test_final_numbers_stay_and_keep_nobody_alive(registry: CollectorRegistry) -> None:
    producer, successor = MemoryProducer(), MemoryProducer(linger_s=1_000)
    for each in (producer, successor):
        collect_from(each, registry)
        each.publish(PAIR)
    assert producer.close(60)
    assert told(registry, "confirmed_total") == 1

    gone = weakref.ref(producer)
    del producer, each
    gc.collect()
    assert gone() is None
    for _ in range(2):
        assert (told(registry, "accepted_total"), told(registry, "confirmed_total")) == (2, 1)
    assert told(registry, "pending_events") == 1, "of what is gone nothing waits"
    successor.close(60)


def test_a_producer_can_be_taken_out_again(registry: CollectorRegistry) -> None:
    with MemoryProducer() as producer:
        leave = collect_from(producer, registry)
        assert told(registry, "accepted_total") == 0
        leave()
        leave()
        assert told(registry, "accepted_total") is None
        collect_from(producer, registry)
        assert told(registry, "accepted_total") == 0


def test_a_forked_child_tells_its_own_numbers(registry: CollectorRegistry) -> None:
    with MemoryProducer() as producer:
        gone = MemoryProducer()
        for each in (producer, gone):
            collect_from(each, registry)
            each.publish(PAIR)
        assert told(registry, "accepted_total") == 2
        del gone, each
        gc.collect()
        assert told(registry, "accepted_total") == 2

        def child() -> list[float | None]:
            before = told(registry, "accepted_total")
            producer.publish(PAIR)
            return [before, told(registry, "accepted_total")]

        assert in_child(child) == [0, 1]
        assert told(registry, "accepted_total") == 2


def test_a_scrape_during_a_fork_locks_no_child(registry: CollectorRegistry) -> None:
    with MemoryProducer() as producer:
        collect_from(producer, registry)
        ((collector, _),) = registry._collector_to_names.items()
        with collector._lock:
            assert in_child(lambda: told(registry, "accepted_total")) == 0


def test_without_prometheus_client_one_line_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None; import penstock_producers; import penstock_producers.metrics"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    line = "ModuleNotFoundError: penstock_producers.metrics needs prometheus_client: pip install 'penstock[metrics]'"
    assert done.stderr.splitlines()[-1] == line
    assert "During handling" not in done.stderr
