"""What `publish()` returns: the number of the event, by which it can be found everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from penstock_schemas import wire

__all__ = ["Receipt"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """An accepted event: `seq` is its number in `epoch`, which is one start or fork of the producer's process."""

    epoch: UUID
    seq: int

    @property
    def event_id(self) -> str:
        """The id under which the event is stored, dead-lettered and traced."""
        return wire.event_id(self.epoch, self.seq)
