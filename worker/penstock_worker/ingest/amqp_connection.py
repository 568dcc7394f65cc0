"""
Reading from RabbitMQ in bulk: what the socket has, at once, and usual messages without py-amqp.

py-amqp asks the socket nine times for a message, for three frames in three parts each. With one event a message that was most
of what the main process did. Whatever is not a usual message (a method, a heartbeat, a message of no body frame or of several)
goes through py-amqp frame by frame.
"""

from __future__ import annotations

from collections.abc import Callable
from ssl import SSLWantReadError
from struct import Struct
from struct import error as struct_error
from typing import Any

import amqp
from amqp.exceptions import UnexpectedFrame
from amqp.spec import Basic

from penstock_worker.ingest.amqp_frames import careful_frames, properties_of

__all__ = ["BulkConnection"]

#: A message that is all here, in one body frame: delivery tag, whether it came before, properties, body.
Usual = tuple[int, bool, dict[str, Any], bytes]

#: Bytes that are read from the socket at once: more than two frames of the usual greatest size.
READ_BYTES = 256 * 1024

_METHOD, _HEADER, _BODY = 1, 2, 3
#: A frame: type, channel, size; then so many bytes, then this one.
_FRAME, _FRAME_END = Struct(">BHI"), 0xCE
#: The frame of a delivery: as above, the method, the length of the consumer's name, which follows.
_DELIVERY = Struct(">BHIIB")
_DELIVER = Basic.Deliver[0] << 16 | Basic.Deliver[1]
#: Behind the consumer's name: tag and whether it came before.
_TAG = Struct(">QB")
#: The frame of a header: as above, class and weight, bytes of the body; the properties follow.
_HEADER_FRAME = Struct(">BHIIQ")
#: What stands before and behind the content of each frame.
_AROUND = _FRAME.size + 1


class BulkConnection(amqp.Connection):  # type: ignore[misc]  # py-amqp has no types
    """
    Py-amqp's connection, reading in bulk.

    It has one channel that consumes. `on_usual` gets the usual messages of all its consumers, with the parts of `Usual`; the
    others, which come in between, go to the consumers' callbacks.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, frame_handler=careful_frames, **kwargs)
        self.on_usual: Callable[[int, bool, dict[str, Any], bytes], None] | None = None
        #: What has been read, and where in it begins what has not been handled.
        self._read, self._at = b"", 0

    def blocking_read(self, timeout: float | None = None) -> bool:
        """See py-amqp: handle one frame or one usual message; whether it was the last of something."""
        while (is_last := self.handle_next()) is None:
            self.receive(timeout)
        return is_last

    def receive(self, timeout: float | None) -> None:
        """
        Read what the socket has.

        Raises:
            TimeoutError: It has nothing. 0 waits for nothing.
            OSError: It is broken, or the broker has closed it.
        """
        try:
            with self.transport.having_timeout(timeout) as sock:
                part = sock.recv(READ_BYTES)
            if not part:
                raise ConnectionResetError("the broker closed the connection")
        except TimeoutError:
            raise
        except (BlockingIOError, SSLWantReadError) as exc:
            raise TimeoutError from exc  # the socket's own limit
        except OSError:
            self.transport.connected = False
            raise
        self._read, self._at = self._read[self._at :] + part, 0

    def handle_next(self) -> bool | None:
        """As `blocking_read`, of what has been read; None if no frame is there that can be handled."""
        try:
            usual = self._usual() if self.on_usual else None
        except (struct_error, IndexError):
            if self._begins_delivery():
                return None
            usual = None
        if usual is not None and self.on_usual:
            self.bytes_recv += 1  # py-amqp's count of frames, by which it sees that the broker lives
            self.on_usual(*usual)
            return True
        frame = self._frame()
        return None if frame is None else bool(self.on_inbound_frame(frame))

    def _usual(self) -> Usual | None:
        """
        The usual message that begins here; None if it is something else.

        Raises:
            struct.error, IndexError: It is not all here yet.
        """
        read, at = self._read, self._at
        kind, channel, size, method, name_size = _DELIVERY.unpack_from(read, at)
        if kind != _METHOD or method != _DELIVER:
            return None
        number, is_redelivered = _TAG.unpack_from(read, at + _DELIVERY.size + name_size)
        header_at = at + size + _AROUND
        header, of_header, size, _, body_size = _HEADER_FRAME.unpack_from(read, header_at)
        if header != _HEADER or not body_size:
            return None
        body_at = header_at + size + _AROUND
        body, of_body, size = _FRAME.unpack_from(read, body_at)
        if body != _BODY or size != body_size or not channel == of_header == of_body:
            return None
        start = body_at + _FRAME.size
        end = start + size
        if not read[header_at - 1] == read[body_at - 1] == read[end] == _FRAME_END:
            return None
        self._at = end + 1
        properties = properties_of(read[header_at + _HEADER_FRAME.size : body_at - 1])
        return number, bool(is_redelivered), properties, read[start:end]

    def _begins_delivery(self) -> bool:
        """Whether what is there is a part of a delivery, the rest of which will follow by itself."""
        start = self._read[self._at : self._at + _DELIVERY.size - 1]
        if len(start) < _DELIVERY.size - 1:
            return False
        kind, _, _, method, _ = _DELIVERY.unpack(start + b"\0")
        return bool(kind == _METHOD and method == _DELIVER)

    def _frame(self) -> tuple[int, int, bytes] | None:
        """The next frame, if it is all here."""
        read, at = self._read, self._at
        if len(read) < at + _FRAME.size:
            return None
        kind, channel, size = _FRAME.unpack_from(read, at)
        start = at + _FRAME.size
        end = start + size
        if len(read) <= end:
            return None
        if read[end] != _FRAME_END:
            raise UnexpectedFrame(f"a frame ends with {read[end]:#04x}, not {_FRAME_END:#04x}")
        self._at = end + 1
        return kind, channel, read[start:end]
