"""The sender: retries that keep order and lose nothing, and a thread that may die."""

from __future__ import annotations

import logging

import pytest

from penstock_producers import Producer, TransportError
from tests.producing import (
    Clock,
    NarrowTransport,
    ScriptedBroker,
    ScriptedTransport,
    eventually,
    make_buffer,
    make_sender,
    numbers,
)
from tests.records import Pair

EVENT = b"x" * 100
PAIR = Pair(tenant="a", number=1)


def test_what_fails_is_sent_again_first_and_in_order() -> None:
    buffer = make_buffer(batch_events=2)
    transport = ScriptedTransport(0)
    sender = make_sender(buffer, transport)
    buffer.accept_many([EVENT] * 4)
    assert sender.run_once()
    buffer.accept_many([EVENT] * 2)
    assert (sender.breaker.failures, sender.last_error) == (1, "told to fail")
    assert sender.run_once()
    assert sender.run_once()
    attempts = [[numbers(envelope) for envelope in attempt] for attempt in transport.attempts]
    assert attempts == [[[0, 1], [2, 3]], [[0, 1], [2, 3]], [[4, 5]]]
    assert (sender.breaker.failures, sender.last_error, buffer.held.count, buffer.confirmed) == (0, None, 0, 6)


def test_what_was_confirmed_before_the_failure_is_not_sent_again() -> None:
    buffer = make_buffer(batch_events=1)
    transport = ScriptedTransport(2, 1)
    sender = make_sender(buffer, transport)
    buffer.accept_many([EVENT] * 4)
    for _ in range(3):
        sender.run_once()
    assert [[e.seq for e in attempt] for attempt in transport.attempts] == [[0, 1, 2, 3], [2, 3], [3]]
    assert [e.seq for e in transport.confirmed] == [0, 1, 2, 3]


@pytest.mark.parametrize("error", [TransportError("away"), ValueError("a bug"), MemoryError()])
def test_no_error_of_a_transport_ends_the_sender(error: BaseException) -> None:
    buffer = make_buffer(batch_events=1)
    transport = ScriptedTransport(error)
    sender = make_sender(buffer, transport)
    buffer.accept(EVENT)
    assert sender.run_once()
    assert sender.last_error == (str(error) or "MemoryError")
    assert sender.run_once()
    assert buffer.confirmed == 1


def test_a_transport_that_forgets_to_confirm_is_an_error() -> None:
    class Silent(ScriptedTransport):
        def send(self, envelopes: object, on_confirmed: object) -> None:
            pass

    buffer = make_buffer(batch_events=1)
    sender = make_sender(buffer, Silent())
    buffer.accept(EVENT)
    sender.run_once()
    assert (sender.last_error, buffer.held.count) == ("the transport returned before all was confirmed", 1)


def test_a_transport_that_cannot_be_made_is_tried_again() -> None:
    transports = [TransportError("no such host"), ScriptedTransport()]

    def connect() -> ScriptedTransport:
        made = transports.pop(0)
        if isinstance(made, TransportError):
            raise made
        return made

    buffer = make_buffer(batch_events=1)
    sender = make_sender(buffer, ScriptedTransport())
    sender._connect = connect
    buffer.accept(EVENT)
    sender.run_once()
    assert sender.last_error == "no such host"
    sender.run_once()
    assert buffer.confirmed == 1


def test_the_dropped_ranges_of_a_failed_envelope_are_not_lost() -> None:
    buffer = make_buffer(batch_events=1, max_events=1)
    transport = ScriptedTransport(0)
    sender = make_sender(buffer, transport)
    buffer.accept_many([EVENT, EVENT])
    sender.run_once()
    sender.run_once()
    (envelope,) = transport.confirmed
    assert [(part.first, part.last) for part in envelope.dropped] == [(1, 1)]


def test_a_dead_thread_is_replaced_by_the_next_event(caplog: pytest.LogCaptureFixture) -> None:
    transports = [ScriptedTransport(SystemExit("a thread that ends")), ScriptedTransport()]
    with (
        caplog.at_level(logging.CRITICAL),
        Producer("redis://unused", linger_s=0, broker=ScriptedBroker(*transports)) as producer,
    ):
        producer.publish(PAIR)
        eventually(lambda: transports[0].attempts and not producer.status().is_sending)
        assert (producer.status().pending_writes, transports[0].is_closed) == (1, True)
        producer.publish(PAIR)
        assert producer.flush(60)
    assert [number for envelope in transports[1].confirmed for number in numbers(envelope)] == [0, 1]


def test_a_dead_thread_is_replaced_by_who_waits_for_room() -> None:
    transports = [ScriptedTransport(SystemExit()), ScriptedTransport()]
    with Producer(
        "redis://unused", policy="block", max_events=1, block_timeout_s=60, linger_s=0, broker=ScriptedBroker(*transports)
    ) as producer:
        producer.publish(PAIR)
        eventually(lambda: transports[0].attempts and not producer.status().is_sending)
        assert producer.publish(PAIR).seq == 1
        assert producer.flush(60)
    assert [number for envelope in transports[1].confirmed for number in numbers(envelope)] == [0, 1]


def test_a_dead_thread_is_replaced_by_flush() -> None:
    transports = [ScriptedTransport(SystemExit()), ScriptedTransport()]
    with Producer("redis://unused", linger_s=0, broker=ScriptedBroker(*transports)) as producer:
        producer.publish(PAIR)
        eventually(lambda: transports[0].attempts and not producer.status().is_sending)
        assert producer.flush(60)


def test_an_old_event_is_an_alarm_though_the_thread_is_alive(caplog: pytest.LogCaptureFixture) -> None:
    with Producer(
        "redis://unused", name="shop", linger_s=1_000, late_after_s=0.5, broker=ScriptedBroker(ScriptedTransport())
    ) as producer:
        producer.publish(PAIR)
        eventually(lambda: producer.status().is_late)
        producer.publish(PAIR)
        assert producer.status().is_sending
    (alarm,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert alarm.getMessage().startswith("shop: 2 events wait for the broker, the oldest for ")


def test_many_events_that_are_too_large_are_told_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    buffer = make_buffer(max_bytes=100_000)
    sender = make_sender(buffer, ScriptedTransport())
    sender._connect = lambda: NarrowTransport(max_bytes=99)
    buffer.accept_many([EVENT] * 50)
    buffer.begin_close()
    while sender.run_once():
        pass
    assert buffer.drops.totals == {"too_large": 50}
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert ["smaller ones are sent" in line for line in told] == [True, False]
    assert f" of {buffer.epoch} is dropped" in told[1]


def test_while_closing_has_time_it_is_tried_soon_and_then_ever_later(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    delays: list[float] = []
    buffer = make_buffer(clock)
    monkeypatch.setattr(buffer, "wait_to_retry", lambda delay_s, _urgency: delays.append(delay_s))
    sender = make_sender(buffer, ScriptedTransport(*[TransportError("away")] * 6), retry_min_s=0.001, retry_max_s=60.0)
    buffer.accept(EVENT)
    buffer.begin_close(timeout_s=5.0)
    for _ in range(3):
        assert sender.run_once()
    clock.now += 5.0
    for _ in range(3):
        assert sender.run_once()
    assert delays == pytest.approx([0.001, 0.001, 0.001, 0.008, 0.016, 0.032])
