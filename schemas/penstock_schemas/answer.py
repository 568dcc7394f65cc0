"""
Answers: what became of events, told to the producer that asked for it.

An envelope with a `reply_to` is answered once its batch is committed and acknowledged; an envelope with a `query` is answered
from the ledger. An answer is one line of ASCII:

    1 019abc17-6f0e-7cc1-8d7f-2b6d5c9f1a00 stored:0-4997 dead:4998-4999

the version, the epoch, and ranges of numbers by outcome, both ends included. `unknown` says that nothing in the ledger tells of
these numbers: they were not there yet when the question was answered. Only a query is answered so.

The address is the name of a list (Redis) or of an exclusive queue (RabbitMQ). It comes from outside, so a worker writes to no
other name than `new_address` can have made.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, Self
from uuid import UUID, uuid4

__all__ = ["MAX_QUERY_RANGES", "PRECEDENCE", "UNKNOWN", "Answer", "SeqRange", "is_address", "new_address"]

#: Inclusive at both ends.
SeqRange = tuple[int, int]

#: Ranges that one query may ask about.
MAX_QUERY_RANGES = 1_000

#: How an event can end. One that was noted with several outcomes has the strongest, which is the first here. In its table beats
#: all: what came of it later is the same event again. `dropped` is last: what a producer gave up may have reached the broker
#: all the same.
PRECEDENCE = ("stored", "superseded", "fenced", "expired", "dead", "held", "dropped")

#: In place of an outcome: the ledger has nothing of these numbers.
UNKNOWN = "unknown"

_VERSION = "1"
_ADDRESS = re.compile(r"penstock\.answers\.[0-9a-f]{32}")
_RANGE = re.compile(r"([a-z]+):(\d{1,15})-(\d{1,15})", re.ASCII)


def new_address() -> str:
    """A name at which nobody else listens."""
    return f"penstock.answers.{uuid4().hex}"


def is_address(name: object) -> bool:
    """Whether a worker may answer there."""
    return isinstance(name, str) and _ADDRESS.fullmatch(name) is not None


class Answer(NamedTuple):
    """What became of numbers of one epoch: (outcome, first, last) each."""

    epoch: UUID
    outcomes: Sequence[tuple[str, int, int]]

    def line(self) -> str:
        """The answer as it travels."""
        return " ".join([_VERSION, str(self.epoch), *(f"{outcome}:{first}-{last}" for outcome, first, last in self.outcomes)])

    @classmethod
    def parse(cls, line: str | bytes) -> Self:
        """
        Read a line.

        Raises:
            ValueError: It is no answer, or one of another version.
        """
        text = line if isinstance(line, str) else line.decode("ascii")
        version, epoch, *parts = text.split(" ")
        if version != _VERSION:
            raise ValueError(f"an answer of version {version}, this producer reads {_VERSION}")
        matches = [_RANGE.fullmatch(part) for part in parts]
        if not all(matches):
            raise ValueError("an answer holds ranges such as stored:0-99")
        return cls(UUID(epoch), [(match[1], int(match[2]), int(match[3])) for match in matches if match])
