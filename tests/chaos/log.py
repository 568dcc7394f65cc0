"""
The log of a writer: each event before `publish()` is called and a word after it returned, straight to the kernel, so that a
SIGKILL of the writer takes nothing of it.

    I {"epoch": .., "seq": .., "type": .., "op": .., "version": .., "data": .., "at": ..}    is about to be published
    A <seq>                                                                                was accepted
    S {"dropped": .., ...}                                                                 what the producer said of itself
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.events import Draft

__all__ = ["Log", "Published", "last_status", "read_log"]


@dataclass(slots=True)
class Published:
    """
    An event as its writer logged it.

    Args:
        event: As the reference model takes it.
        writer: Whose.
        at: When, in seconds since 1970.
        is_accepted: `publish()` returned. If not, the event may or may not be there.
        is_journaled: On disk until it was answered; a broker that forgets loses others.
        may_drop: Its writer was made to run out of room.
    """

    event: dict[str, Any]
    writer: str
    at: float
    is_accepted: bool = False
    is_journaled: bool = True
    may_drop: bool = False

    @property
    def key(self) -> tuple[str, int]:
        """Epoch and number."""
        return self.event["epoch"], self.event["seq"]

    def is_excused(self, wiped: Collection[tuple[str, int]]) -> bool:
        """Whether a broker that lost its data took it along, and nobody else had it any more."""
        return self.key in wiped and not self.is_journaled


class Log:
    """One file of one process."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def intend(self, epoch: str, seq: int, draft: Draft, at: float) -> None:
        """Before `publish()`."""
        event = {"epoch": epoch, "seq": seq, "type": draft.type, "op": draft.op, "version": draft.version, "data": draft.data}
        self._write(f"I {json.dumps(event | {'at': at})}\n")

    def accept(self, seq: int) -> None:
        """After it."""
        self._write(f"A {seq}\n")

    def tell(self, **status: object) -> None:
        """What the producer says of itself."""
        self._write(f"S {json.dumps(status)}\n")

    def _write(self, line: str) -> None:
        os.write(self._file, line.encode())


def read_log(path: Path, writer: str, *, is_journaled: bool, may_drop: bool = False) -> Iterator[Published]:
    """The events of one log; what a SIGKILL cut in the middle was not accepted."""
    last: Published | None = None
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            kind, _, rest = line.rstrip("\n").partition(" ")
            if kind == "I" and line.endswith("}\n"):
                if last is not None:
                    yield last
                event = json.loads(rest)
                last = Published(event, writer, event.pop("at"), is_journaled=is_journaled, may_drop=may_drop)
            elif kind == "A" and last is not None and line.endswith("\n"):
                assert int(rest) == last.event["seq"], f"{path.name}: publish() gave {rest}, expected {last.event['seq']}"
                last.is_accepted = True
    if last is not None:
        yield last


def last_status(path: Path) -> dict[str, Any]:
    """The producer's last word of itself; nothing where it has said none."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    said = [line for line in lines if line.startswith("S ") and line.endswith("\n")]
    found: dict[str, Any] = json.loads(said[-1][2:]) if said else {}
    return found
