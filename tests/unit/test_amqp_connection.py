"""Reading from RabbitMQ in bulk: the same messages in the same order, wherever the stream is cut."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from amqp.exceptions import UnexpectedFrame
from amqp.serialization import dumps
from amqp.transport import TCPTransport

from penstock_worker.ingest.amqp_connection import BulkConnection
from penstock_worker.ingest.amqp_frames import careful_frames

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
DELIVER, CANCELLED = (60, 60), (60, 31)
PROPERTIES = b"\xa0\0" + b"\x10application/json" + dumps("F", [{"count": 1}])
READ = {"content_type": "application/json", "application_headers": {"count": 1}}


def frame(kind: int, payload: bytes, channel: int = 1) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def delivery(number: int, *bodies: bytes, again: bool = False, properties: bytes = PROPERTIES) -> list[bytes]:
    """The frames of a message."""
    method = struct.pack(">HH", *DELIVER) + dumps("sLbss", ["a consumer", number, again, "", "a queue"])
    header = struct.pack(">HHQ", 60, 0, sum(map(len, bodies))) + properties
    return [frame(METHOD, method), frame(HEADER, header), *(frame(BODY, body) for body in bodies)]


class Channel:
    """Notes what py-amqp dispatches."""

    def __init__(self, seen: list[tuple[Any, ...]]) -> None:
        self.seen = seen

    def dispatch_method(self, method: tuple[int, int], arguments: bytes, message: Any) -> None:
        if method == DELIVER:
            (number,) = struct.unpack_from(">Q", arguments, 4 + 1 + len("a consumer"))
            self.seen.append(("py-amqp", number, message.properties, bytes(message.body or b"")))
        else:
            self.seen.append(("method", method))


@contextmanager
def reading(seen: list[tuple[Any, ...]]) -> Iterator[tuple[BulkConnection, socket.socket]]:
    """A connection that hears what is sent into the socket."""
    broker, ours = socket.socketpair()
    connection = BulkConnection()
    connection.transport = TCPTransport("nowhere")
    connection.transport.sock, connection.transport.connected = ours, True
    connection.on_inbound_frame = careful_frames(connection, connection.on_inbound_method)
    connection.channels[1] = Channel(seen)
    connection.on_usual = lambda *usual: seen.append(("usual", *usual))
    try:
        yield connection, broker
    finally:
        broker.close()
        ours.close()


def read(parts: Sequence[bytes]) -> list[tuple[Any, ...]]:
    """What is seen if each part is there before it is read."""
    seen: list[tuple[Any, ...]] = []
    with reading(seen) as (connection, broker):
        for part in parts:
            broker.sendall(part)
            connection.receive(0)
            while connection.handle_next() is not None:
                pass
    return seen


STREAM = b"".join(
    [
        *delivery(1, b"one"),
        frame(HEARTBEAT, b"", channel=0),
        *delivery(2, b"two", again=True),
        *delivery(3, b"in two ", b"frames"),
        *delivery(4),
        frame(METHOD, struct.pack(">HH", *CANCELLED)),
        *delivery(5, b"five"),
    ]
)
SEEN = [
    ("usual", 1, False, READ, b"one"),
    ("usual", 2, True, READ, b"two"),
    ("py-amqp", 3, READ, b"in two frames"),
    ("py-amqp", 4, READ, b""),
    ("method", CANCELLED),
    ("usual", 5, False, READ, b"five"),
]


def test_what_is_not_a_usual_message_goes_through_py_amqp_in_its_turn() -> None:
    assert read([STREAM]) == SEEN


def test_a_stream_may_be_cut_anywhere() -> None:
    odd = {at: seen for at in range(1, len(STREAM)) if (seen := read([STREAM[:at], STREAM[at:]])) != SEEN}

    assert not odd


def test_a_stream_may_come_byte_by_byte() -> None:
    assert read([bytes([byte]) for byte in STREAM]) == SEEN


def test_a_heartbeat_between_the_frames_of_a_message_does_no_harm() -> None:
    method, header, body = delivery(1, b"one")
    beat = frame(HEARTBEAT, b"", channel=0)

    seen = read([method + beat, header + beat, body])

    assert seen == [("py-amqp", 1, READ, b"one")]


def test_heartbeats_are_heard_though_nothing_follows() -> None:
    with reading([]) as (connection, broker):
        broker.sendall(frame(HEARTBEAT, b"", channel=0))
        connection.receive(0)

        assert connection.handle_next() is False
        assert connection.bytes_recv == 1


def test_usual_messages_are_signs_of_life() -> None:
    with reading([]) as (connection, broker):
        broker.sendall(b"".join(delivery(1, b"one")))
        connection.drain_events(timeout=1)

        assert connection.bytes_recv == 1


def test_properties_that_cannot_be_read_leave_the_content_type() -> None:
    odd = b"\xa0\0" + b"\x01x" + struct.pack(">I", 3) + b"\x01\xff?"

    assert read([b"".join(delivery(1, b"one", properties=odd))]) == [("usual", 1, False, {"content_type": "x"}, b"one")]


def test_nothing_there_is_told_at_once_and_the_end_breaks_the_connection() -> None:
    with reading([]) as (connection, broker):
        with pytest.raises(TimeoutError):
            connection.receive(0)
        assert connection.connected
        broker.close()
        with pytest.raises(ConnectionResetError):
            connection.receive(0)
        assert not connection.connected


def test_a_frame_without_its_end_is_refused() -> None:
    torn = b"".join(delivery(1, b"one"))[:-1] + b"!"

    with pytest.raises(UnexpectedFrame):
        read([torn])
