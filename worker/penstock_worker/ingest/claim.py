"""What a batch is that does not come from the broker: a replay of dead letters."""

from __future__ import annotations

from typing import Protocol

from penstock_worker.ingest.decode import Decoded
from penstock_worker.store.connection import Connection

__all__ = ["Claim"]


class Claim(Protocol):
    """
    Asked by the writer inside the transaction of a batch, in every try anew.

    The broker gives a message to one worker only; whoever writes what it did not get from there must claim it first.
    """

    #: Whether the transaction is rolled back when all is done.
    is_rehearsal: bool

    def take(self, connection: Connection, decoded: Decoded) -> Decoded:
        """Lock what the batch was made of, and return the part of it that nobody else has in hand."""

    def account(self, connection: Connection, decoded: Decoded) -> None:
        """Note how that part ended, in place of what is noted for a batch from the broker."""
