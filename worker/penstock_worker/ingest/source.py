"""What a broker must offer the step: `Source`, and the `Delivery` it hands over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from penstock_worker.ingest.answers import AddressedAnswer
from penstock_worker.ingest.message import RawMessage

__all__ = ["Deliver", "Delivery", "Source"]


@dataclass(slots=True, eq=False)
class Delivery:
    """
    One message in this worker's hands, its lease running.

    Args:
        raw: The message, undecoded.
        tag: What the source acknowledges it by.
        count: Events in it, by its header's word: a hint for filling batches and nothing more.
        redeliveries: How often it came back without an orderly end. Above 0 it is a suspect.
    """

    raw: RawMessage
    tag: Any
    count: int
    redeliveries: int

    @property
    def size(self) -> int:
        """Bytes of the message."""
        return len(self.raw.body)


#: Takes deliveries over; never blocks.
Deliver = Callable[[Sequence[Delivery]], None]


class Source(Protocol):
    """
    A queue of events on a broker. All methods run in the worker's event loop and none waits longer than the broker's timeouts.

    Any of them may raise the broker's connection errors; Celery then stops the step, reconnects and starts it again. Deliveries
    outlive that: their ack after it is either still good (Redis) or ignored, the broker having given them to others (RabbitMQ).
    """

    def start(self, deliver: Deliver, has_room: Callable[[], bool]) -> None:
        """Connect and begin to deliver as long as there is room."""

    def wake(self) -> None:
        """There is room again."""

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """They are safe in the database: the broker may forget them."""

    def answer(self, answers: Sequence[AddressedAnswer]) -> None:
        """
        Tell producers what became of their events, after the ack.

        Never raises, and never holds the loop for long: an answer that is lost is asked for again.
        """

    def give_back(self, deliveries: Sequence[Delivery], *, is_suspect: bool = False) -> None:
        """Return them to the head of the queue, as fresh or as suspects."""

    def abandon(self, deliveries: Sequence[Delivery]) -> None:
        """The broker cannot be told: let their leases end, so that it takes them back by itself."""

    def pause(self) -> None:
        """Stop delivering."""

    def resume(self) -> None:
        """Deliver again."""

    def depth(self) -> int | None:
        """Messages that wait in the queue, if the broker says so cheaply."""

    def stop(self) -> None:
        """Stop delivering for good; acks go on working."""

    def close(self) -> None:
        """Disconnect. What is still in hand goes back by itself."""
