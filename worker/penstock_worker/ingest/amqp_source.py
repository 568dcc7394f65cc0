"""
Events from RabbitMQ, over a connection of its own.

Its own, because reading is how this source is slowed down: with no room left, nothing is read, TCP holds the broker back, and
the worker's control commands go on over the other connection. A prefetch in messages cannot bound bytes.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from amqp.exceptions import AccessRefused
from kombu.asynchronous.hub import Hub
from kombu.asynchronous.timer import Timer

from penstock_producers.transports.tls import broker_connection
from penstock_schemas.topology import publishers_exchange, queues
from penstock_worker.ingest.amqp_answers import AmqpAnswers, hang_up
from penstock_worker.ingest.amqp_connection import BulkConnection
from penstock_worker.ingest.answers import AddressedAnswer
from penstock_worker.ingest.message import RawMessage
from penstock_worker.ingest.source import Deliver, Delivery
from penstock_worker.settings import Settings

__all__ = ["AckWindow", "AmqpSource"]

logger = logging.getLogger(__name__)

#: Seconds between heartbeats that are promised to the broker; sent twice as often.
HEARTBEAT_S = 60
#: Messages read in one turn of the loop, so that others get theirs.
READS_PER_TURN = 500
#: Messages sent ahead: at first, at least; and how many are looked at before the number is changed.
PREFETCH_FIRST, PREFETCH_LEAST, PREFETCH_SAMPLE = 100, 20, 50
#: Messages and bytes that are read before they are handed over and the room is looked at again.
HAND_OVER_MESSAGES, HAND_OVER_BYTES = 50, 1024 * 1024


class AckWindow:
    """
    Which delivery tags are open, in the order of delivery, so that one `ack(multiple)` can stand for many.

    It acknowledges everything below it, so it may go only as far as all older deliveries are finished.
    """

    def __init__(self) -> None:
        self._open: deque[int] = deque()
        self._done: dict[int, bool] = {}

    def deliver(self, number: int) -> None:
        """A delivery came."""
        self._open.append(number)

    def finish(self, numbers: Iterable[int], *, needs_ack: bool = True) -> int | None:
        """
        Deliveries are done; those that were rejected need no ack.

        Returns:
            The tag up to which everything may now be acknowledged. It is one that needs its ack: the broker closes the channel
            for an ack of a tag that is settled.
        """
        self._done.update(dict.fromkeys(numbers, needs_ack))
        watermark = None
        while self._open and self._open[0] in self._done:
            number = self._open.popleft()
            if self._done.pop(number):
                watermark = number
        return watermark


class AmqpSource:
    """
    The `Source` over a quorum queue.

    Args:
        settings: Broker, queue and prefetch.
        timer: The worker's timer.
        hub: The worker's event loop.
    """

    def __init__(self, settings: Settings, timer: Timer, hub: Hub) -> None:
        self._settings, self._timer, self._hub = settings, timer, hub
        self._connection: Any = None
        self._channel: Any = None
        self._window = AckWindow()
        # A broker's delivery tag holds on its channel only; ours go on from those of the channel before.
        self._tags_before = self._last_tag = 0
        self._arrived: list[Delivery] = []
        self._arrived_bytes = 0
        self._consumers: list[str] = []
        self._is_open = self._is_reading = False
        self._socket: Any = None
        self._prefetch = min(PREFETCH_FIRST, settings.prefetch_messages)
        self._seen_messages = self._seen_events = 0
        self._heartbeat: Any = None
        self._answers = AmqpAnswers(settings.broker)

    def start(self, deliver: Deliver, has_room: Callable[[], bool]) -> None:
        """See `Source`."""
        self._deliver, self._has_room = deliver, has_room
        if self._connection is None or not self._connection.connected:
            self.close()
            self._connect()
        self.resume()

    def _connect(self) -> None:
        client = broker_connection(
            self._settings.broker,
            heartbeat=HEARTBEAT_S,
            connect_timeout=self._settings.connect_timeout_s,
            transport_options={
                "read_timeout": HEARTBEAT_S,
                "write_timeout": HEARTBEAT_S,
            },
        )
        # py-amqp's own connection: kombu's would silently open a new one when asked for the socket of one that has broken.
        transport = client.transport
        transport.Connection = BulkConnection
        self._connection = transport.establish_connection()
        self._connection.on_usual = self._on_delivery
        self._channel = self._connection.channel()
        self._channel.auto_decode = False
        # After the broker closes a channel py-amqp opens it again, and tags begin anew there: ours would name others then.
        self._channel._do_revive = self._connection.collect  # noqa: SLF001  # what py-amqp does not offer
        self._window = AckWindow()
        self._tags_before = self._last_tag
        for name, arguments in queues(self._settings.queue).items():
            self._channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
        self._declare_exchange()
        self._heartbeat = self._timer.call_repeatedly(HEARTBEAT_S / 4, self._beat)

    def _declare_exchange(self) -> None:
        """For publishers who may write nowhere else; where this user may not declare it, they do without."""
        queue, exchange = self._settings.queue, publishers_exchange(self._settings.queue)
        channel = self._connection.channel()  # of its own, which a refusal closes
        try:
            channel.exchange_declare(exchange, "direct", durable=True, auto_delete=False)
            channel.queue_bind(queue, exchange, routing_key=queue)
        except AccessRefused as exc:
            logger.info("the exchange %s is not declared: %s", exchange, exc, extra={"action": "exchange_refused"})
            return
        channel.close()

    def wake(self) -> None:
        """See `Source`."""
        if self._is_open and not self._is_reading and self._has_room():
            self._read_on()

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See `Source`."""
        self._settle(self._window.finish(self._current(deliveries)))

    def answer(self, answers: Sequence[AddressedAnswer]) -> None:
        """See `Source`."""
        self._answers.send(answers)

    def give_back(self, deliveries: Sequence[Delivery], *, is_suspect: bool = False) -> None:
        """
        See `Source`.

        RabbitMQ counts every return (`x-delivery-count`), with or without our saying so: after an outage or a restart whatever
        was sent ahead comes back as a suspect. That costs it smaller batches, and nothing else.
        """
        del is_suspect
        numbers = self._current(deliveries)
        for number in numbers:
            self._channel.basic_reject(number, requeue=True)
        self._settle(self._window.finish(numbers, needs_ack=False))

    def abandon(self, deliveries: Sequence[Delivery]) -> None:
        """See `Source`. They went back when the channel closed."""

    def pause(self) -> None:
        """See `Source`. What the broker sent before it heard of it goes straight back."""
        self._is_open = False
        for consumer in self._consumers:
            self._channel.basic_cancel(consumer)
        self._consumers = []
        self._stop_reading()
        self.give_back(self._take_arrived())

    def resume(self) -> None:
        """See `Source`."""
        self._is_open = True
        self._channel.basic_qos(0, self._prefetch, False)
        for name in queues(self._settings.queue):
            self._consumers.append(self._consume(name))
        self._read_on()

    def _consume(self, queue: str) -> str:
        return str(self._channel.basic_consume(queue, callback=self._on_message))

    def depth(self) -> int | None:
        """See `Source`."""
        if not self._is_open:
            return None
        declared = self._channel.queue_declare(self._settings.queue, passive=True)
        self._look_again()
        return int(declared.message_count)

    def stop(self) -> None:
        """See `Source`."""
        if self._channel is not None and self._is_open:
            self.pause()

    def close(self) -> None:
        """See `Source`. Closing the channel gives back whatever is not acknowledged."""
        self._stop_reading()
        self._is_open = False
        self._take_arrived()
        self._consumers = []
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            self._heartbeat = None
        self._answers.close()
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            hang_up(connection)

    def _settle(self, watermark: int | None) -> None:
        if watermark is not None:
            self._channel.basic_ack(watermark, multiple=True)

    def _current(self, deliveries: Sequence[Delivery]) -> list[int]:
        """The tags that this channel still knows; the others are the broker's again."""
        if self._channel is None:
            return []
        before = self._tags_before
        return [delivery.tag - before for delivery in deliveries if delivery.tag > before]

    def _read_on(self) -> None:
        self._is_reading = True
        self._socket = self._connection.sock
        self._hub.add_reader(self._socket, self._on_readable)
        self._hub.call_soon(self._on_readable)  # what py-amqp has buffered makes no socket readable

    def _stop_reading(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._hub.remove_reader(self._socket)

    def _on_readable(self) -> None:
        """Read what is there, as long as there is room for it."""
        if not self._is_reading:
            return
        for _ in range(READS_PER_TURN):
            if self._connection.handle_next() is None and not self._receive():
                self._hand_over()
                return
            if self._arrived_bytes < HAND_OVER_BYTES and len(self._arrived) < HAND_OVER_MESSAGES:
                continue
            self._hand_over()
            if not self._has_room():
                self._stop_reading()
                return
        self._hand_over()
        self._hub.call_soon(self._on_readable)

    def _receive(self) -> bool:
        """Whether the socket had something."""
        try:
            self._connection.receive(0)
        except TimeoutError:
            return False
        return True

    def _hand_over(self) -> None:
        arrived = self._take_arrived()
        if arrived:
            self._seen_messages += len(arrived)
            self._seen_events += sum(max(1, delivery.count) for delivery in arrived)
            self._deliver(arrived)
            self._adapt_prefetch()

    def _take_arrived(self) -> list[Delivery]:
        arrived, self._arrived, self._arrived_bytes = self._arrived, [], 0
        return arrived

    def _adapt_prefetch(self) -> None:
        """
        Let the broker send ahead what two batches per child hold, and not more: what waits here, no other worker can take.

        Only a new consumer gets a new prefetch, so a small change is not worth it.
        """
        if self._seen_messages < PREFETCH_SAMPLE or not self._is_open:
            return
        events_each = self._seen_events / self._seen_messages
        self._seen_messages = self._seen_events = 0
        settings = self._settings
        wanted = round(2 * settings.concurrency * settings.batch_max_events / events_each)
        wanted = max(PREFETCH_LEAST, min(wanted, settings.prefetch_messages))
        if not self._prefetch / 2 < wanted < self._prefetch * 2:
            self._prefetch = wanted
            self._channel.basic_qos(0, wanted, False)
            for consumer in self._consumers:
                self._channel.basic_cancel(consumer)
            self._consumers = [self._consume(name) for name in queues(settings.queue)]
            self._look_again()

    def _look_again(self) -> None:
        """After a wait for an answer, behind which messages may have been read that make no socket readable."""
        self._hub.call_soon(self._on_readable)

    def _on_message(self, message: Any) -> None:
        """A message that came through py-amqp."""
        body = message.body if isinstance(message.body, bytes) else str(message.body).encode()
        info = message.delivery_info
        self._on_delivery(info["delivery_tag"], bool(info["redelivered"]), message.properties, body)

    def _on_delivery(self, number: int, is_redelivered: bool, properties: dict[str, Any], body: bytes) -> None:
        if self._channel is None:
            return  # read on the way to the connection's end, with which it goes back
        self._window.deliver(number)
        self._last_tag = self._tags_before + number
        headers = properties.get("application_headers") or {}
        count = headers.get("count")
        delivery = Delivery(
            RawMessage(body, properties.get("content_type"), headers),
            self._last_tag,
            count if isinstance(count, int) else 1,
            _redeliveries(headers) if is_redelivered else 0,
        )
        if self._is_open:
            self._arrived.append(delivery)
            self._arrived_bytes += len(body)
        else:
            self.give_back([delivery])

    def _beat(self) -> None:
        """Keep the connection alive. While nothing is read, nothing of the broker's is missed either."""
        if self._is_reading:
            self._connection.heartbeat_tick(rate=2)
        else:
            self._connection.send_heartbeat()


def _redeliveries(headers: dict[str, Any]) -> int:
    """
    How often a message that came back did: a quorum queue counts, others only say that it did.

    Of one that has not come back, the header may be the sender's, who may have written anything.
    """
    count = headers.get("x-delivery-count")
    return max(1, count) if isinstance(count, int) else 1
