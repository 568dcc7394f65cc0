"""Replaying letters: page by page through the writer that ingest uses, each page one transaction."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from penstock_worker.errors import DatabaseAway
from penstock_worker.ingest.outcome import Outcome, Verdict
from penstock_worker.ingest.stopwatch import Stopwatch
from penstock_worker.ingest.write import Writer
from penstock_worker.letters.claim import ReplayClaim, merge
from penstock_worker.letters.reading import Source, read_letter, refuse_letter
from penstock_worker.letters.summary import Summary
from penstock_worker.store.dead_letters import Letter
from penstock_worker.store.letter_filter import LetterFilter
from penstock_worker.store.stored_letters import BEFORE_ALL, read_page

__all__ = ["PAGE_BYTES", "PAGE_LETTERS", "Replay"]

logger = logging.getLogger(__name__)

#: Letters, and bytes of their payloads, that are written in one transaction.
PAGE_LETTERS = 500
PAGE_BYTES = 8 * 1024 * 1024


def _tell_nobody(_letters: int) -> None:
    pass


@dataclass
class Replay:
    """
    Takes letters back to where they were going.

    What is committed stays when it is interrupted: the letters that are left are those that another replay finds.

    Args:
        writer: Writes them, over its own connection.
        patch: A merge patch for the copies that are replayed.
        is_rehearsal: Roll every page back. A page then does not see what the one before it would have changed.
        shown: Single letters, and rows, that the summary keeps.
        tell: Called with the number of letters after each page.
        page_letters: Letters in a transaction.
    """

    writer: Writer
    patch: dict[str, Any] | None = None
    is_rehearsal: bool = False
    shown: int = 0
    tell: Callable[[int], None] = _tell_nobody
    page_letters: int = PAGE_LETTERS

    def run(self, meant: LetterFilter | sql.Composable, limit: int | None = None, after: UUID = BEFORE_ALL) -> Summary:
        """
        Replay the letters that are meant, in the order of their ids, from the one `after` which they begin.

        Raises:
            DatabaseAway: What was committed by then is stored.
        """
        summary, left = Summary(), limit
        while left is None or left > 0:
            wanted = self.page_letters if left is None else min(left, self.page_letters)
            page = read_page(self.writer.database.connection(), meant, after, wanted, PAGE_BYTES)
            if not page:
                break
            self.replay_page(page, summary)
            after = page[-1].id
            left = None if left is None else left - len(page)
            self.tell(len(page))
        return summary

    def replay_page(self, letters: Sequence[Letter], summary: Summary) -> None:
        """Replay letters in one transaction; if one of them meets a bug of ours, in halves, until it is alone with it."""
        try:
            self._write([read_letter(letter, self.writer.validators, self.patch) for letter in letters], summary)
        except (DatabaseAway, psycopg.Error):
            raise
        except Exception as exc:
            if len(letters) == 1:
                logger.exception("a letter cannot be replayed, it is held: %s", letters[0].id, extra={"action": "letter_held"})
                verdict = Verdict(Outcome.HELD, "unknown_error", f"{type(exc).__name__}: {exc}")
                self._write([refuse_letter(letters[0], verdict)], summary)
                return
            middle = len(letters) // 2
            self.replay_page(letters[:middle], summary)
            self.replay_page(letters[middle:], summary)

    def _write(self, sources: Sequence[Source], summary: Summary) -> None:
        claim = ReplayClaim(
            sources,
            self.writer.settings,
            is_rehearsal=self.is_rehearsal,
            is_patched=self.patch is not None,
            rows_shown=self.shown - len(summary.rows),
        )
        self.writer.store(merge(source.decoded for source in sources), Stopwatch(), claim)
        for ending in claim.endings:
            summary.add(ending, self.shown)
        summary.busy += claim.busy
        summary.rows += claim.rows
