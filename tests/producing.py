"""What the producer's tests share: options with small numbers, a clock to turn by hand, a transport that does as it is told."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

from penstock_producers import Producer, TransportError
from penstock_producers.breaker import Breaker
from penstock_producers.buffer import Buffer
from penstock_producers.errors import MessagesTooLarge
from penstock_producers.options import Options
from penstock_producers.sender import Sender
from penstock_producers.testing import MemoryTransport
from penstock_producers.transports import Mailbox, Transport
from penstock_schemas import Record
from penstock_schemas.wire import Envelope, new_epoch

__all__ = [
    "Clock",
    "Drops",
    "NarrowTransport",
    "ScriptedBroker",
    "ScriptedTransport",
    "eventually",
    "in_child",
    "make_buffer",
    "make_sender",
    "numbers",
    "options",
    "publish_beside_handlers",
]


def options(**given: Any) -> Options:
    defaults: dict[str, Any] = {
        "name": "test",
        "queue": "penstock.events",
        "policy": "drop_newest",
        "max_events": 100,
        "max_bytes": 10_000,
        "block_timeout_s": None,
        "linger_s": 0.05,
        "batch_events": 10,
        "batch_bytes": 1_000,
        "heartbeat_s": 30.0,
        "late_after_s": 60.0,
        "retry_min_s": 0.001,
        "retry_max_s": 0.002,
        "timeout_s": 1.0,
        "exit_deadline_s": 1.0,
        "on_drop": None,
        "durability": "memory",
        "fsync": False,
        "spool_folder": None,
        "spool_max_bytes": 1_000_000,
    }
    return Options(**{**defaults, **given})


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Drops:
    """Every (count, reason) that was told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, str]] = []

    def __call__(self, count: int, reason: str) -> None:
        self.told.append((count, reason))


class ScriptedTransport:
    """
    Keeps what it was given, and answers each `send` by the script.

    A number is how many envelopes it confirms before it fails, an exception is raised, None and the end of the script
    confirm all.
    """

    def __init__(self, *script: int | BaseException | None) -> None:
        self.script = list(script)
        self.attempts: list[list[Envelope]] = []
        self.confirmed: list[Envelope] = []
        self.is_closed = False

    def send(self, envelopes: Sequence[Envelope], on_confirmed: Callable[[Envelope], None]) -> None:
        self.attempts.append(list(envelopes))
        answer = self.script.pop(0) if self.script else None
        if isinstance(answer, BaseException):
            raise answer
        for envelope in envelopes[:answer]:
            self.confirmed.append(envelope)
            on_confirmed(envelope)
        if answer is not None:
            raise TransportError("told to fail")

    def close(self) -> None:
        self.is_closed = True

    def forget(self) -> None:
        pass


class NarrowTransport(MemoryTransport):
    """Its broker takes no message above some bytes of events, and confirms none of those sent together with one."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__()
        self._max_bytes = max_bytes

    def send(self, envelopes: Sequence[Envelope], on_confirmed: Callable[[Envelope], None]) -> None:
        too_large = [envelope for envelope in envelopes if sum(map(len, envelope.events)) > self._max_bytes]
        if too_large:
            raise MessagesTooLarge("told to be narrow", too_large)
        super().send(envelopes, on_confirmed)


class ScriptedBroker:
    """Gives the transports in the order given, each once."""

    def __init__(self, *transports: Transport) -> None:
        self._transports = iter(transports)

    def transport(self) -> Transport:
        return next(self._transports)

    def mailbox(self) -> Mailbox:
        raise NotImplementedError


def make_buffer(clock: Clock | None = None, tell: Callable[[int, str], None] | None = None, **given: Any) -> Buffer:
    return Buffer(options(**given), new_epoch(), tell or Drops(), clock or Clock())


def make_sender(buffer: Buffer, transport: ScriptedTransport, **given: Any) -> Sender:
    """To be turned by hand, by `run_once`."""
    words = options(**given)
    breaker = Breaker(words.retry_min_s, words.retry_max_s, jitter=lambda: 1.0)
    return Sender(words, buffer, lambda: transport, breaker, on_end=_ignore, on_failure=_ignore, on_cut=_ignore)


def _ignore() -> None:
    pass


def numbers(envelope: Envelope) -> list[int]:
    return list(range(envelope.seq, envelope.seq + len(envelope.events)))


def eventually(is_so: Callable[[], object], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to be in time"
        time.sleep(0.002)


def in_child(work: Callable[[], Any]) -> Any:
    """Fork, do the work there, and bring its JSON-able result back."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = {"result": work()}
        except BaseException as exc:  # noqa: BLE001  # it is told to the parent
            answer = {"error": repr(exc)}
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        told = json.loads(stream.read())
    os.waitpid(pid, 0)
    assert "error" not in told, told
    return told["result"]


def publish_beside_handlers(producer: Producer, record: Record) -> int:
    """
    Publish it until twenty signal handlers have interrupted that and published it too; how often in all.

    By the process's own time: while the machine or its disk is slow no handlers pile up inside each other, and SIGALRM is
    pytest-timeout's.
    """
    handled = published = 0

    def handle(*_: Any) -> None:
        nonlocal handled
        handled += 1
        producer.publish(record)

    before = signal.signal(signal.SIGVTALRM, handle)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.004, 0.004)
    try:
        while handled < 20:
            producer.publish(record)
            published += 1
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    return published + handled
