"""How transports tell what is too large; that the brokers do so is seen in the integration tests."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from penstock_producers.errors import MessagesTooLarge, TransportError
from penstock_producers.transports.amqp import AmqpTransport
from penstock_schemas.wire import Envelope, new_epoch

EPOCH = new_epoch()


def envelope(seq: int, size: int) -> Envelope:
    return Envelope("test", EPOCH, seq, [b"x" * size])


def ignore(_: Envelope) -> None:
    pass


@pytest.mark.parametrize(("limit", "refused"), [(1_000, [2, 3]), (3_000, [3]), (1_000_000, [3])])
def test_rabbitmq_says_a_limit_and_something_is_above_it(
    limit: int, refused: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By our measure perhaps nothing is: then it is the largest, for something must become smaller."""
    transport = AmqpTransport("amqp://unused", "q", 1.0)

    def refuse(_: Sequence[Envelope]) -> None:
        raise TransportError(f"RabbitMQ: message size 5000 is larger than configured max size {limit}")

    monkeypatch.setattr(transport, "_deliver", refuse)
    with pytest.raises(MessagesTooLarge) as caught:
        transport.send([envelope(1, 100), envelope(2, 2_000), envelope(3, 4_000)], ignore)
    assert [found.seq for found in caught.value.envelopes] == refused
