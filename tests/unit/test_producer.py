"""`Producer` as a service sees it, over the in-memory twin."""

from __future__ import annotations

import gc
import json
import pickle
import sys
import threading
import time
import tracemalloc
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from pydantic import ConfigDict

from penstock_producers import BufferFull, Producer, ProducerClosed, Receipt
from penstock_producers.testing import MemoryProducer
from penstock_schemas import Declaration, Record, RecordError, RecordTooLarge
from penstock_schemas.wire import MAX_RECORD_BYTES, event_id
from tests.producing import Drops, ScriptedBroker, ScriptedTransport, eventually, publish_beside_handlers
from tests.records import Note, Pair, Reading

PAIR = Pair(tenant="a", number=1)


class Page(Record):
    __record__ = Declaration(type="lab.page", table="lab.pages", key="model_id")
    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    body: dict[str, Any] | None = None


def test_what_is_published_is_on_the_wire_as_it_was_at_that_moment() -> None:
    page = Page(model_id="p", body={"text": "before"})
    with MemoryProducer(linger_s=0.05) as producer:
        receipt = producer.publish(page)
        assert page.body is not None
        page.body["text"] = "after"
        page.model_id = "other"
        (event,) = producer.events
    assert (event.type, event.op, event.data) == ("lab.page", "upsert", {"model_id": "p", "body": {"text": "before"}})
    assert (event.event_id, event.seq) == (receipt.event_id, 0)


def test_only_fields_that_were_set_travel() -> None:
    with MemoryProducer() as producer:
        producer.publish(Pair(tenant="a", number=1, text=None))
        assert producer.events[0].data == {"tenant": "a", "number": 1, "text": None}


def test_receipts_number_the_events_of_this_process() -> None:
    with MemoryProducer() as producer:
        receipts = [producer.publish(PAIR), *producer.publish_many([PAIR, PAIR]), producer.delete(Pair, "a", 1)]
        epoch = producer.status().epoch
    assert receipts == [Receipt(epoch, seq) for seq in range(4)]
    assert receipts[3].event_id == event_id(epoch, 3)
    assert UUID(receipts[0].event_id).version == 8
    with pytest.raises(FrozenInstanceError):
        receipts[0].seq = 9  # type: ignore[misc]


def test_versions_grow_and_a_given_time_is_kept() -> None:
    with MemoryProducer() as producer:
        producer.publish_many([PAIR] * 3)
        producer.publish(PAIR, occurred_at=datetime(2001, 1, 1, tzinfo=UTC))
        versions = [event.version for event in producer.events]
    assert versions[0] < versions[1] < versions[2]
    assert versions[3] == 978_307_200_000_000


@pytest.mark.parametrize("key", [{"args": ("a", 7)}, {"named": {"tenant": "a", "number": 7}}])
def test_a_delete_carries_the_key_only(key: dict[str, Any]) -> None:
    with MemoryProducer() as producer:
        producer.delete(Pair, *key.get("args", ()), **key.get("named", {}))
        (event,) = producer.events
    assert (event.type, event.op, event.data) == ("lab.pair", "delete", {"tenant": "a", "number": 7})


def test_a_key_may_have_any_name() -> None:
    with MemoryProducer() as producer:
        producer.delete(Page, model_id="p", occurred_at=datetime(2001, 1, 1, tzinfo=UTC))
        assert [(event.data, event.version) for event in producer.events] == [({"model_id": "p"}, 978_307_200_000_000)]


@pytest.mark.parametrize(
    ("record_class", "args", "named", "reason"),
    [
        (Pair, ("a",), {}, r"give its key \(tenant, number\)"),
        (Pair, (), {}, r"give its key"),
        (Pair, ("a",), {"number": 1}, r"give its key"),
        (Pair, (), {"tenant": "a"}, r"lab.pair: number: Field required"),
        (Pair, (), {"tenant": "a", "number": 1, "text": "x"}, r"lab.pair: text: Extra inputs"),
        (Note, ("seven",), {}, r"lab.note: number: Input should be a valid integer"),
        (Page, ("a\0",), {}, "NUL"),
        (Reading, ("x", "y"), {}, "append-only"),
    ],
)
def test_a_wrong_key_is_refused(record_class: type[Record], args: Any, named: Any, reason: str) -> None:
    with MemoryProducer() as producer:
        with pytest.raises(RecordError, match=reason):
            producer.delete(record_class, *args, **named)
        assert producer.status().accepted == 0


@pytest.mark.parametrize(
    ("record", "error", "reason"),
    [
        (Page(model_id="p", body={"text": "\0"}), RecordError, "NUL"),
        (Page(model_id="p", body={"text": "\ud800"}), RecordError, "lab.page"),
        (Page(model_id="p", body={"x": object()}), RecordError, "lab.page"),
        (Page(model_id="p", body={"x": "y" * MAX_RECORD_BYTES}), RecordTooLarge, "over the limit of 8323072"),
        ({"model_id": "p"}, TypeError, "publish takes a Record, not dict"),
    ],
)
def test_what_cannot_go_on_the_wire_is_refused_before_it_has_a_number(record: Any, error: type[Exception], reason: str) -> None:
    with MemoryProducer() as producer:
        with pytest.raises(error, match=reason):
            producer.publish(record)
        with pytest.raises(error):
            producer.publish_many([PAIR, record])
        assert (producer.publish(PAIR).seq, producer.status().dropped) == (0, {})


def test_the_largest_record_fits_into_a_message() -> None:
    room = MAX_RECORD_BYTES - len(Page(model_id="p", body={"x": ""}).to_json())
    with MemoryProducer(name="n" * 200) as producer:
        producer.publish(Page(model_id="p", body={"x": "y" * room}))
        assert len(producer.events) == 1
        assert len(producer.transport.envelopes[0].body()) < 8 * 1024 * 1024


def test_publish_neither_blocks_nor_raises_while_the_broker_is_away_and_nothing_is_lost() -> None:
    with MemoryProducer(retry_min_s=0.001, retry_max_s=0.005) as producer:
        producer.transport.is_away = True
        started = time.monotonic()
        producer.publish_many([PAIR] * 1_000)
        assert time.monotonic() - started < 30
        eventually(lambda: producer.status().failures > 2)
        status = producer.status()
        assert (status.pending_writes, status.is_synced, status.last_error) == (1_000, False, "the memory broker is away")
        assert producer.flush(0.01) is False
        producer.transport.is_away = False
        assert producer.flush(60) is True
        status = producer.status()
        assert (status.confirmed, status.pending_writes, status.pending_bytes, status.last_error) == (1_000, 0, 0, None)
        assert status.is_synced
        assert status.last_sync_time is not None
        assert [event.seq for event in producer.events] == list(range(1_000))


def test_memory_is_bounded_while_the_broker_is_away() -> None:
    page = Page(model_id="p", body={"x": "y" * 1_000})
    with MemoryProducer(max_bytes=1_000_000, exit_deadline_s=0) as producer:
        producer.transport.is_away = True
        tracemalloc.start()
        for _ in range(20_000):
            producer.publish(page)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        status = producer.status()
        assert status.pending_bytes <= 1_000_000
        assert status.dropped["buffer_full"] + status.pending_writes == 20_000
    assert peak < 8_000_000


def test_drops_are_counted_told_and_carried() -> None:
    drops = Drops()
    with MemoryProducer(max_events=3, on_drop=drops, retry_min_s=0.001, retry_max_s=0.002) as producer:
        producer.transport.is_away = True
        producer.publish_many([PAIR] * 10)
        producer.transport.is_away = False
        assert producer.flush(60)
        producer.publish(PAIR)
        assert [event.seq for event in producer.events] == [0, 1, 2, 10]
        assert (drops.told, producer.status().dropped) == ([(1, "buffer_full")] * 7, {"buffer_full": 7})
    carried = [part for envelope in producer.transport.envelopes for part in envelope.dropped]
    assert [seq for part in carried for seq in range(part.first, part.last + 1)] == list(range(3, 10))


def test_an_on_drop_that_fails_does_not_fail_publish(caplog: pytest.LogCaptureFixture) -> None:
    def on_drop(count: int, reason: str) -> None:
        raise RuntimeError(f"{count} {reason}")

    with MemoryProducer(max_events=1, on_drop=on_drop, exit_deadline_s=0) as producer:
        producer.transport.is_away = True
        assert [receipt.seq for receipt in producer.publish_many([PAIR, PAIR])] == [0, 1]
    assert "on_drop of test failed" in caplog.text


def test_policy_raise() -> None:
    with MemoryProducer(policy="raise", max_events=1, exit_deadline_s=0) as producer:
        producer.transport.is_away = True
        producer.publish(PAIR)
        with pytest.raises(BufferFull):
            producer.publish(PAIR)


def test_policy_block_waits_for_the_broker() -> None:
    with MemoryProducer(policy="block", max_events=5, batch_events=2) as producer:
        producer.publish_many([PAIR] * 200)
        assert [event.seq for event in producer.events] == list(range(200))
        assert producer.status().dropped == {}


def test_the_end_is_told() -> None:
    producer = MemoryProducer(name="shop")
    producer.publish(PAIR)
    assert producer.close() is True
    assert producer.close() is True
    last = producer.transport.envelopes[-1]
    assert (last.producer, last.seq, last.events, last.is_closed) == ("shop", 1, (), True)
    assert producer.status().is_closed
    with pytest.raises(ProducerClosed):
        producer.publish(PAIR)


def test_an_unused_producer_tells_nothing_and_starts_nothing() -> None:
    threads = threading.active_count()
    producer = MemoryProducer()
    assert producer.flush(60)
    assert threading.active_count() == threads
    producer.close()
    assert producer.transport.envelopes == []


def test_close_keeps_its_deadline_and_counts_what_it_gives_up() -> None:
    drops = Drops()
    producer = MemoryProducer(on_drop=drops)
    producer.transport.is_away = True
    producer.publish_many([PAIR] * 3)
    started = time.monotonic()
    assert producer.close(0.05) is False
    assert time.monotonic() - started < 30
    assert (drops.told, producer.status().dropped) == ([(3, "close_deadline")], {"close_deadline": 3})


def test_close_keeps_its_deadline_though_the_transport_hangs() -> None:
    release = threading.Event()

    class Hanging(ScriptedTransport):
        def send(self, envelopes: object, on_confirmed: object) -> None:
            release.wait(120)

    producer = Producer("redis://unused", broker=ScriptedBroker(Hanging()))
    producer.publish(PAIR)
    started = time.monotonic()
    assert producer.close(0.05) is False
    assert time.monotonic() - started < 60
    release.set()
    eventually(lambda: not producer.status().is_sending)


def test_closing_interrupts_the_wait_for_the_next_attempt() -> None:
    producer = MemoryProducer(retry_min_s=1_000, retry_max_s=1_000)
    producer.transport.is_away = True
    producer.publish(PAIR)
    eventually(lambda: producer.status().failures)
    producer.transport.is_away = False
    assert producer.close(60) is True


def test_a_heartbeat_tells_how_far_an_idle_producer_is() -> None:
    with MemoryProducer(heartbeat_s=0.01) as producer:
        producer.publish_many([PAIR, PAIR])
        eventually(lambda: any(e.seq == 2 and e.events == () and not e.is_closed for e in producer.transport.envelopes))


def test_a_producer_that_nobody_holds_any_more_sends_its_tail() -> None:
    producer = MemoryProducer(linger_s=1_000)
    transport = producer.transport
    producer.publish(PAIR)
    del producer
    gc.collect()
    eventually(lambda: transport.envelopes and transport.envelopes[-1].is_closed)
    assert len(transport.events()) == 1


def test_a_signal_handler_may_publish() -> None:
    """The lock is reentrant: a handler runs in the middle of a publish of its own thread."""
    with MemoryProducer(max_events=1_000_000, max_bytes=1_000_000_000) as producer:
        published = publish_beside_handlers(producer, PAIR)
        accepted = producer.status().accepted
        assert accepted == published
        assert sorted(event.seq for event in producer.events) == list(range(accepted))
        assert (producer.status().pending_writes, producer.status().pending_bytes) == (0, 0)


def test_threads_share_a_producer() -> None:
    with MemoryProducer(batch_events=7) as producer:

        def work(tenant: str) -> None:
            for number in range(300):
                producer.publish(Pair(tenant=tenant, number=number))

        threads = [threading.Thread(target=work, args=(str(i),)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        events = producer.events
    assert [event.seq for event in events] == list(range(1_800))
    for tenant in "012345":
        assert [event.data["number"] for event in events if event.data["tenant"] == tenant] == list(range(300))


def test_it_cannot_be_pickled() -> None:
    with MemoryProducer() as producer, pytest.raises(TypeError, match="create one in each process"):
        pickle.dumps(producer)


def test_its_name_is_the_programs_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/billing.py"])
    assert Producer("redis://unused").status().name == "billing"


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"policy": "drop"}, "policy 'drop': choose one of drop_newest, drop_oldest, block, raise"),
        ({"max_events": 0}, "max_events must be above 0"),
        ({"linger_s": -1}, "linger_s must not be negative"),
        ({"batch_events": 10_001}, "batch_events must be between 1 and 10000"),
        ({"batch_bytes": 9_000_000}, "batch_bytes must be between 1 and 8323072"),
        ({"name": "n" * 201}, "name must be at most 200 characters"),
        ({"queue": ""}, "name and queue must not be empty"),
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Producer("redis://unused", **wrong)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "must be a URL such as"),
        ("localhost:6379", "must be a URL such as"),
        (None, "must be a URL such as"),
        ("http://host", "must begin with redis://, rediss://, amqp://, amqps://"),
        ("redis+cluster://host", "Redis Cluster is not supported"),
        ("redis://host:port/0", "wrong address or port"),
        ("redis://host:0/0", "port 0"),
        ("amqp://host:99999//", "wrong address or port"),
        ("redis://host/db", "'db' is no database of Redis"),
        ("redis://[::1/0", "wrong address or port"),
        ("redis://ann:12/secret@host/0", "wrong address or port"),
        ("redis://ann:12#secret@host/0", "wrong address or port"),
        ("redis://ann:12?secret@host/0", "wrong address or port"),
        ("amqp://ann:12/secret@host//", "wrong address or port"),
        ("rediss://host/;redis://ann:secret@other/", "one broker"),
        ("amqps://host;amqp://ann:secret@other//", "one broker"),
    ],
)
def test_a_wrong_url_is_refused_in_one_line_without_its_password(url: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        Producer(url)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_bytes_on_the_wire() -> None:
    with MemoryProducer(name="shop") as producer:
        receipt = producer.publish(Pair(tenant="ä", number=1), occurred_at=datetime(2001, 1, 1, tzinfo=UTC))
        producer.flush()
        envelope = producer.transport.envelopes[0]
    assert json.loads(envelope.body()) == {
        "v": 1,
        "producer": "shop",
        "epoch": str(receipt.epoch),
        "seq": 0,
        "dropped": [],
        "reply_to": None,
        "events": [{"type": "lab.pair", "op": "upsert", "version": 978_307_200_000_000, "data": {"tenant": "ä", "number": 1}}],
    }
    assert envelope.headers() == {"v": 1, "producer": "shop", "epoch": str(receipt.epoch), "seq": 0, "count": 1}


def test_clear_forgets_what_was_published() -> None:
    with MemoryProducer() as producer:
        producer.publish(PAIR)
        producer.clear()
        producer.publish(PAIR)
        assert [event.seq for event in producer.events] == [1]
