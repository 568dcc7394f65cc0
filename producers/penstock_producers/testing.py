"""
For services' own tests: a producer without a broker, and a look at what it published.

    producer = MemoryProducer()
    service(producer)
    assert [event.data["invoice_id"] for event in producer.events] == ["17"]

It is the real producer over a transport that keeps what it is given: policies, limits, errors and numbers are the real ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from penstock_producers.errors import TransportError
from penstock_producers.options import Durability
from penstock_producers.producer import Producer
from penstock_producers.transports import Mailbox, Transport
from penstock_producers.transports.memory_mailbox import MemoryMailbox, MemoryPost
from penstock_schemas.answer import Answer
from penstock_schemas.wire import Envelope, Op, event_id

__all__ = ["MemoryBroker", "MemoryProducer", "MemoryTransport", "PublishedEvent"]


@dataclass(frozen=True, slots=True)
class PublishedEvent:
    """One event as the worker would read it."""

    type: str
    op: Op
    version: int
    data: dict[str, Any]
    event_id: str
    seq: int


class MemoryTransport:
    """
    Keeps the envelopes it is given, in order.

    Set `is_away` to have it refuse them, as a broker that is away does; what was refused comes again when it is back.
    Who waits for a receipt is told `outcome`, as by a worker; None answers nobody.
    """

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.is_away = False
        self.outcome: str | None = "stored"
        self.post = MemoryPost()

    def send(self, envelopes: Sequence[Envelope], on_confirmed: Callable[[Envelope], None]) -> None:
        for envelope in envelopes:
            if self.is_away:
                raise TransportError("the memory broker is away")
            if not envelope.query:
                self.envelopes.append(envelope)
            on_confirmed(envelope)
            if envelope.reply_to and self.outcome:
                self.post.answer(envelope.reply_to, Answer(envelope.epoch, list(self._outcomes(envelope, self.outcome))))

    def _outcomes(self, envelope: Envelope, outcome: str) -> Iterator[tuple[str, int, int]]:
        if envelope.events:
            yield outcome, envelope.seq, envelope.seq + len(envelope.events) - 1
        # Everything that was asked about was sent before, or is on its way.
        yield from ((outcome, first, last) for first, last in envelope.query)
        yield from (("dropped", part.first, part.last) for part in envelope.dropped)

    def close(self) -> None:
        pass

    def forget(self) -> None:
        self.envelopes.clear()

    def events(self) -> list[PublishedEvent]:
        """Every event of every envelope."""
        return [event for envelope in list(self.envelopes) for event in _events_of(envelope)]


class MemoryBroker:
    """
    A `Broker` without a server: every transport it gives is the same one.

    Args:
        transport: None makes a `MemoryTransport`.
    """

    def __init__(self, transport: Transport | None = None) -> None:
        self._transport: Transport = transport or MemoryTransport()
        self._post = self._transport.post if isinstance(self._transport, MemoryTransport) else MemoryPost()

    def transport(self) -> Transport:
        return self._transport

    def mailbox(self) -> Mailbox:
        return MemoryMailbox(self._post)


class MemoryProducer(Producer):
    """
    A `Producer` for tests; takes the same words, but no URL.

    In a forked child it starts empty: what the child publishes is seen in the child only.
    """

    def __init__(self, *, name: str = "test", linger_s: float = 0.0, durability: Durability = "memory", **options: Any) -> None:
        # The sender's thread must not hold the producer: dropping the last reference to it closes it.
        self.transport = transport = MemoryTransport()
        super().__init__(
            "memory://", name=name, linger_s=linger_s, durability=durability, broker=MemoryBroker(transport), **options
        )

    @property
    def events(self) -> list[PublishedEvent]:
        """Everything published so far, in order; waits for what is still on its way, unless the transport is away."""
        if not self.transport.is_away:
            self.flush()
        return self.transport.events()

    def clear(self) -> None:
        """Forget what was published so far."""
        self.flush()
        self.transport.envelopes.clear()


def _events_of(envelope: Envelope) -> list[PublishedEvent]:
    decoded = [json.loads(event) for event in envelope.events]
    numbered = enumerate(decoded, start=envelope.seq)
    return [PublishedEvent(**event, event_id=event_id(envelope.epoch, seq), seq=seq) for seq, event in numbered]
