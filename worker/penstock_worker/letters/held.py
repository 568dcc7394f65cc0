"""
Held letters that can be stored by now, replayed without anybody asking.

For each fingerprint one letter goes first. If it is held again, the fingerprint waits: 30 s, then twice as long each time, up
to a limit; the next try takes the next letter, so that a sick one keeps the others waiting once only. If it goes through, be it
that it is stored or that it is dead for good, the others follow, as many as a run may take, the rest in later runs.

Some causes are each letter's own (no partition for its month yet): there a page of letters goes first. Letters whose clock was
ahead are taken when their time has come, without trying.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from psycopg import sql

from penstock_worker.ingest.write import Writer
from penstock_worker.letters.replay import PAGE_BYTES, PAGE_LETTERS, Replay
from penstock_worker.letters.summary import Summary, add_counts
from penstock_worker.settings import Settings
from penstock_worker.store import replay_pauses
from penstock_worker.store.connection import Connection
from penstock_worker.store.replay_pauses import Due
from penstock_worker.store.stored_letters import BEFORE_ALL, read_page

__all__ = ["HeldReplay"]

_CLOCK_AHEAD = "clock_ahead"
#: Reasons that say nothing of the next letter, though its fingerprint is the same.
_EACH_ITS_OWN = frozenset({"no_partition_yet", "unknown_error", "constraint"})


@dataclass
class HeldReplay:
    """
    One run.

    Args:
        connection: In autocommit; it keeps the pauses, and is not the writer's.
        writer: Writes the letters.
        settings: How many letters, and how long the pauses.
    """

    connection: Connection
    writer: Writer
    settings: Settings
    _summary: Summary = field(default_factory=Summary)

    def run(self) -> dict[str, Any]:
        """
        Replay what can be; a bounded number of letters, safe to run twice and twice at once.

        Raises:
            DatabaseAway: What was committed by then is stored.
            psycopg.Error: The same, of the connection that keeps the pauses.
        """
        replay_pauses.forget_idle(self.connection)
        self._replay_ripe()
        for due in replay_pauses.find_due(self.connection, but=_CLOCK_AHEAD):
            if self._room <= 0:
                break
            self._replay_fingerprint(due)
        return {**self._summary.outcomes, "letters": self._summary.letters, "remaining": self._summary.remaining}

    @property
    def _room(self) -> int:
        """Letters that this run may still take."""
        return self.settings.held_letters_per_run - self._summary.letters

    def _replay_ripe(self) -> None:
        limit_us = int(self.settings.clock_ahead_limit_s * 1_000_000)
        ripe = sql.SQL(
            "state = 'held' AND reason = {} AND version <= (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + {}"
        ).format(_CLOCK_AHEAD, limit_us)
        self._replay_all(ripe, BEFORE_ALL)

    def _replay_fingerprint(self, due: Due) -> None:
        meant = sql.SQL("state = 'held' AND fingerprint = {}").format(due.fingerprint)
        first = PAGE_LETTERS if due.reason in _EACH_ITS_OWN else 1
        letters = read_page(self.connection, meant, due.last_id or BEFORE_ALL, min(first, self._room), PAGE_BYTES)
        if not letters and due.last_id:
            letters = read_page(self.connection, meant, BEFORE_ALL, min(first, self._room), PAGE_BYTES)
        if not letters:
            return
        tried = Summary()
        Replay(self.writer, shown=len(letters)).replay_page(letters, tried)
        self._add(tried)
        if not tried.endings:
            return  # somebody else has them in hand
        if all(ending.is_held for ending in tried.endings):
            replay_pauses.pause(
                self.connection, due, letters[-1].id, self.settings.held_replay_every_s, self.settings.held_replay_max_pause_s
            )
            return
        replay_pauses.forget(self.connection, due.fingerprint)
        self._replay_all(meant, letters[-1].id)

    def _replay_all(self, meant: sql.Composable, after: UUID) -> None:
        if self._room > 0:
            self._add(Replay(self.writer).run(meant, limit=self._room, after=after))

    def _add(self, summary: Summary) -> None:
        self._summary.letters += summary.letters
        self._summary.remaining += summary.remaining
        add_counts(self._summary.outcomes, summary.outcomes)
