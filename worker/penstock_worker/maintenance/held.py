"""The job that replays held letters once they can be stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from penstock_worker.ingest.write import Writer
from penstock_worker.letters.held import HeldReplay
from penstock_worker.maintenance.job import Work

__all__ = ["HeldLetters"]


@dataclass
class HeldLetters:
    """What a process keeps between runs: the writer, whose validators take a while to build; its connection is closed."""

    _writer: Writer | None = None

    def replay(self, work: Work) -> dict[str, Any]:
        """
        Replay held letters, at most `held_letters_per_run`. Safe to run twice.

        Returns:
            Letters, and events by outcome.

        Raises:
            DatabaseAway: The next run does it.
        """
        if self._writer is None:
            self._writer = Writer.of(work.settings, work.registry)
        try:
            return HeldReplay(work.connection, self._writer, work.settings).run()
        finally:
            self._writer.database.close()
