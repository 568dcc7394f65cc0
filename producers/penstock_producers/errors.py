"""
What can go wrong in a producer, besides what is wrong with a record (`penstock_schemas.errors`).

    ProducerError
    ├── ProducerClosed   publish() after close()
    ├── BufferFull       only under the policies "raise" and "block"
    ├── NotConfigured    the module's own publish() knows no broker
    └── TransportError   a message was not confirmed; stays inside, the sender tries again
        └── MessagesTooLarge   trying again as they are does not help
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock_schemas.wire import Envelope

__all__ = ["BufferFull", "MessagesTooLarge", "NotConfigured", "ProducerClosed", "ProducerError", "TransportError"]


class ProducerError(Exception):
    """Root of every error of this package."""


class ProducerClosed(ProducerError):  # noqa: N818  # it is a state, not a mistake
    """Raised when something is published after `close()`."""


class BufferFull(ProducerError):  # noqa: N818  # it is a state, not a mistake
    """Raised when the buffer has no room and the policy forbids to drop; the event was not accepted."""


class NotConfigured(ProducerError):  # noqa: N818  # it is a state, not a mistake
    """Raised when something is published without a producer, and no broker is named, or not rightly."""


class TransportError(ProducerError):
    """Raised when the broker did not confirm every message; trying again is harmless, events are idempotent."""


class MessagesTooLarge(TransportError):  # noqa: N818  # it is a state, not a mistake
    """Raised when the broker never takes messages as large as these; the others were not confirmed either, and may be."""

    def __init__(self, text: str, envelopes: Sequence[Envelope]) -> None:
        super().__init__(text)
        self.envelopes = envelopes
