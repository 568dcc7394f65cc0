"""What waits in memory while the broker is silent moves to disk, also while the sender hangs in an attempt."""

from __future__ import annotations

import threading

import pytest

from penstock_producers import Producer
from penstock_producers.spool import keeper
from tests.producing import ScriptedBroker, ScriptedTransport, eventually, numbers
from tests.records import Pair

PAIR = Pair(tenant="a", number=1)


def test_what_is_published_while_the_sender_hangs_is_soon_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill then loses about a second, not all that came since the broker froze."""
    monkeypatch.setattr(keeper, "_ADOPT_EVERY_S", 1_000_000.0)  # looking for files of others would wake the keeper as well
    is_back = threading.Event()

    class Frozen(ScriptedTransport):
        def send(self, envelopes: object, on_confirmed: object) -> None:
            is_back.wait(300)
            super().send(envelopes, on_confirmed)  # type: ignore[arg-type]

    transport = Frozen()
    with Producer("redis://unused", linger_s=0, broker=ScriptedBroker(transport)) as producer:
        try:
            for count in (1, 2, 3):
                producer.publish(PAIR)
                eventually(lambda count=count: producer.status().spooled == count)
        finally:
            is_back.set()
        assert producer.flush(60)
        assert (producer.status().spooled, producer.status().dropped) == (0, {})
    assert sorted({number for envelope in transport.confirmed for number in numbers(envelope)}) == [0, 1, 2]


def test_so_is_what_is_published_while_the_sender_hangs_in_a_message_without_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "_ADOPT_EVERY_S", 1_000_000.0)
    is_frozen, is_inside, is_back = threading.Event(), threading.Event(), threading.Event()

    class Frozen(ScriptedTransport):
        def send(self, envelopes: object, on_confirmed: object) -> None:
            if is_frozen.is_set():
                is_inside.set()
                is_back.wait(300)
            super().send(envelopes, on_confirmed)  # type: ignore[arg-type]

    with Producer("redis://unused", linger_s=0, broker=ScriptedBroker(Frozen())) as producer:
        try:
            producer.publish(PAIR)
            assert producer.flush(60)
            watcher, buffer = producer._outbox.keeper, producer._outbox.buffer
            assert watcher is not None
            eventually(lambda: watcher._is_idle)
            is_frozen.set()
            buffer.ask(buffer.epoch, [(0, 0)])
            assert is_inside.wait(60)
            eventually(lambda: watcher._is_idle)  # it was woken for the attempt
            producer.publish(PAIR)
            eventually(lambda: producer.status().spooled == 1)
        finally:
            is_back.set()
        assert producer.flush(60)
