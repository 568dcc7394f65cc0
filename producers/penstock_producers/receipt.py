"""What `publish()` returns: the number of the event, by which it can be found everywhere, and a way to wait for its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast
from uuid import UUID

from penstock_producers.errors import ProducerError
from penstock_schemas import wire

if TYPE_CHECKING:
    from penstock_producers.answers import Answers

__all__ = ["Receipt", "WaitResult", "receipt_of"]

#: How an event ended, or that this is not known yet.
WaitResult = Literal["stored", "superseded", "dead", "held", "fenced", "expired", "dropped", "timeout"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """
    An accepted event: `seq` is its number in `epoch`, which is one start or fork of the producer's process.

    Equal and hashed by these two; a pickled receipt keeps them, and cannot wait.
    """

    epoch: UUID
    seq: int
    _answers: Answers | None = field(default=None, compare=False, repr=False)

    @property
    def event_id(self) -> str:
        """The id under which the event is stored, dead-lettered and traced."""
        return wire.event_id(self.epoch, self.seq)

    def wait(self, timeout_s: float = 10.0) -> WaitResult:
        """
        Wait until the worker has said what became of the event; "stored" and "superseded" are committed, and to be read.

        A broker or a database that is away is no error: then it times out, and the event goes its way all the same. It may be
        asked again, by any thread.

        Returns:
            "stored": its effect is in its row. "superseded": newer events had said it all. "dead", "held": it is a dead letter,
            for good or until its cause is gone. "fenced": its person was erased. "expired": too old to be kept.
            "dropped": given up by this producer. "timeout": not known in time.

        Raises:
            ProducerClosed: The producer was closed, and the outcome is not known.
            ProducerError: The receipt comes from another process.
        """
        if self._answers is None:
            raise ProducerError("a receipt that was pickled cannot wait: wait where the event was published")
        return cast("WaitResult", self._answers.wait(self.seq, timeout_s))

    def __reduce__(self) -> tuple[Any, ...]:
        return (Receipt, (self.epoch, self.seq))


class _Draft:
    """Laid out as a receipt, and not frozen."""

    __slots__ = ("_answers", "epoch", "seq")

    def __init__(self, epoch: UUID, seq: int, answers: Answers) -> None:
        self.epoch = epoch
        self.seq = seq
        self._answers = answers


def receipt_of(epoch: UUID, seq: int, answers: Answers) -> Receipt:
    """A receipt at less than half of the cost: a frozen class fills each of its fields by `object.__setattr__`."""
    draft: Any = _Draft(epoch, seq, answers)
    draft.__class__ = Receipt
    return cast("Receipt", draft)
