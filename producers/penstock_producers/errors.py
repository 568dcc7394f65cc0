"""
What can go wrong in a producer, besides what is wrong with a record (`penstock_schemas.errors`).

    ProducerError
    ├── ProducerClosed   publish() after close()
    ├── BufferFull       only under the policies "raise" and "block"
    └── TransportError   a message was not confirmed; stays inside, the sender tries again
"""

from __future__ import annotations

__all__ = ["BufferFull", "ProducerClosed", "ProducerError", "TransportError"]


class ProducerError(Exception):
    """Root of every error of this package."""


class ProducerClosed(ProducerError):  # noqa: N818  # it is a state, not a mistake
    """Raised when something is published after `close()`."""


class BufferFull(ProducerError):  # noqa: N818  # it is a state, not a mistake
    """Raised when the buffer has no room and the policy forbids to drop; the event was not accepted."""


class TransportError(ProducerError):
    """Raised when the broker did not confirm every message; trying again is harmless, events are idempotent."""
