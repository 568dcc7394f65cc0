"""What the child of the pool tells of a real batch, for the worker's metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from uuid import UUID

import pytest

from penstock_schemas import load_registry
from penstock_schemas.records.scheduler import SchedulerJob
from penstock_schemas.records.translation import TranslationSession
from penstock_schemas.wire import CONTENT_TYPE, Envelope, encode_event, new_epoch
from penstock_worker.ingest.measures import Measures
from penstock_worker.ingest.message import RawMessage
from penstock_worker.ingest.tasks import Child
from penstock_worker.settings import Settings


@pytest.fixture
def child(database_url: str) -> Iterator[Child]:
    child = Child(Settings(database_url=database_url), load_registry())
    yield child
    child.writer.database.close()


def session(name: str, version: int) -> bytes:
    return encode_event("translation.session", "upsert", version, TranslationSession(session_id=name).to_json())


def job(name: str, version: int) -> bytes:
    return encode_event("scheduler.job", "upsert", version, SchedulerJob(id=name).to_json())


def message(*events: bytes, epoch: UUID) -> RawMessage:
    envelope = Envelope("web", epoch, 0, events)
    return RawMessage(envelope.body(), CONTENT_TYPE, envelope.headers())


def test_a_batch_tells_what_became_of_its_events_and_how_late_they_were(child: Child) -> None:
    epochs = [new_epoch() for _ in range(3)]
    now = time.time_ns() // 1_000
    usual = message(session("a", now), session("b", now), job("a", now), epoch=epochs[0])
    second = message(session("a", now + 1), job("b", now - 10**12), epoch=epochs[1])
    odd = message(
        session("c", now),
        encode_event("scheduler.job", "upsert", now, b'{"id": 1}'),
        encode_event("made.up", "upsert", now, b"{}"),
        session("d", now + 10**12),
        epoch=epochs[2],
    )
    result = child.write([usual, second, odd], "together")
    measures = Measures.parse(result["measures"])

    assert measures.events == {
        ("translation.session", "stored"): 3,
        ("translation.session", "superseded"): 1,
        ("translation.session", "held"): 1,
        ("scheduler.job", "stored"): 2,
        ("scheduler.job", "dead"): 1,
        ("unknown", "held"): 1,
    }
    assert {name: result[name] for name in ("stored", "superseded", "held", "dead")} == {
        "stored": 5,
        "superseded": 1,
        "held": 2,
        "dead": 1,
    }
    assert sum(measures.lag.counts) == 5, "neither what was refused nor what happened before its process began"
    took_s = time.time_ns() / 10**9 - now / 10**6
    assert 0 < measures.lag.total_s <= 5 * took_s


def test_a_message_that_comes_again_counts_again(child: Child) -> None:
    epoch = new_epoch()
    raw = message(session("a", time.time_ns() // 1_000), epoch=epoch)
    for mode in ("together", "alone"):
        measures = Measures.parse(child.write([raw], mode)["measures"])  # type: ignore[arg-type]
        assert (measures.events, sum(measures.lag.counts)) == ({("translation.session", "stored"): 1}, 1)
