"""
Held letters that can be stored by now, replayed without anybody asking.

For each fingerprint one letter goes first. If it is held again, the fingerprint waits: 30 s, then twice as long each time, up
to a limit; the next try takes the next letter, so that a sick one keeps the others waiting once only. If it goes through, be it
that it is stored or that it is dead for good, the others follow, as many as a run may take, the rest in later runs.

Some causes are each letter's own (no partition for its month yet): there a page of letters goes first. Letters whose clock was
ahead are taken when their time has come, without trying.

No fingerprint keeps another one from its try. Those that have waited longest begin; all have their first try before any goes
on; then they go on page by page in turn. The pause is written before the try: if a try ends the run, or the process, the next
run begins with the others.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from penstock_worker.errors import DatabaseAway
from penstock_worker.ingest.write import Writer
from penstock_worker.letters.replay import PAGE_BYTES, PAGE_LETTERS, Replay
from penstock_worker.letters.summary import Summary, add_counts
from penstock_worker.settings import Settings
from penstock_worker.store import replay_pauses
from penstock_worker.store.connection import Connection
from penstock_worker.store.dead_letters import Letter
from penstock_worker.store.replay_pauses import Due
from penstock_worker.store.stored_letters import BEFORE_ALL, find_ripe, read_page

__all__ = ["HeldReplay"]

logger = logging.getLogger(__name__)

_CLOCK_AHEAD = "clock_ahead"
#: Reasons that say nothing of the next letter, though its fingerprint is the same.
_EACH_ITS_OWN = frozenset({"no_partition_yet", "unknown_error", "constraint", _CLOCK_AHEAD})
#: Letters of one fingerprint that a run looks at to find those whose time has come; the next run goes on behind them.
LOOKED_AT = 50_000
#: Fingerprints with which the database may be away until the run ends: each may take as long as a statement may.
MAX_AWAY = 3


@dataclass(slots=True)
class _Group:
    """The letters of one fingerprint, from the one `after` which this run goes on with them."""

    due: Due
    after: UUID
    #: Whether letters before `after` may be looked at, if there are none behind it.
    may_wrap: bool = True

    @property
    def is_clock_ahead(self) -> bool:
        return self.due.reason == _CLOCK_AHEAD


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
    _away: int = 0

    def run(self) -> dict[str, Any]:
        """
        Replay what can be; a bounded number of letters, safe to run twice and twice at once.

        Raises:
            DatabaseAway: What was committed by then is stored.
            psycopg.Error: The same, of the connection that keeps the pauses.
        """
        replay_pauses.forget_idle(self.connection)
        due = replay_pauses.find_due(self.connection, self.settings.held_letters_per_run)
        self._go_on(self._try_each([_Group(each, each.last_id or BEFORE_ALL) for each in due]))
        return {**self._summary.outcomes, "letters": self._summary.letters, "remaining": self._summary.remaining}

    @property
    def _room(self) -> int:
        """Letters that this run may still take."""
        return self.settings.held_letters_per_run - self._summary.letters

    def _try_each(self, groups: Sequence[_Group]) -> deque[_Group]:
        """The first try of each; those with which it is worth going on."""
        going: deque[_Group] = deque()
        for place, group in enumerate(groups):
            if self._room <= 0:
                break
            share = max(1, self._room // (len(groups) - place))
            if self._step(group, min(share, PAGE_LETTERS) if group.due.reason in _EACH_ITS_OWN else 1):
                going.append(group)
        return going

    def _go_on(self, going: deque[_Group]) -> None:
        """A page of each in turn, until none is left or the run has taken what it may."""
        while going and self._room > 0:
            group = going.popleft()
            if self._step(group, min(self._room, PAGE_LETTERS)):
                going.append(group)

    def _step(self, group: _Group, letters: int) -> bool:
        """Replay the next letters of a group, so many at most; whether it is worth going on with it in this run."""
        self._pause(group)
        page = self._read_on(group, letters)
        if not page:
            if not group.is_clock_ahead:
                replay_pauses.forget(self.connection, group.due.fingerprint)
            return False
        tried = self._replay(group, page)
        if tried is None or not tried.endings:
            return False  # the database is away, or somebody else has them in hand
        if group.is_clock_ahead:
            return group.after != BEFORE_ALL
        if all(ending.is_held for ending in tried.endings):
            self._pause(group)
            return False
        group.due = group.due._replace(tries=0)
        replay_pauses.forget(self.connection, group.due.fingerprint)
        return True

    def _pause(self, group: _Group) -> None:
        """Let it wait, and note where the next try goes on. Where nothing is tried in vain, there is nothing to wait for."""
        first_s, longest_s = self.settings.held_replay_every_s, self.settings.held_replay_max_pause_s
        if group.is_clock_ahead:
            first_s = longest_s = 0.0
        replay_pauses.pause(self.connection, group.due, group.after, first_s, longest_s)

    def _read_on(self, group: _Group, letters: int) -> list[Letter]:
        if group.is_clock_ahead:
            page = self._read_ripe(group, letters)
            self._pause(group)
            return page
        meant = sql.SQL("state = 'held' AND fingerprint = {}").format(group.due.fingerprint)
        page = read_page(self.connection, meant, group.after, letters, PAGE_BYTES)
        if not page and group.may_wrap and group.after != BEFORE_ALL:
            page = read_page(self.connection, meant, BEFORE_ALL, letters, PAGE_BYTES)
        group.may_wrap = False
        group.after = page[-1].id if page else group.after
        return page

    def _read_ripe(self, group: _Group, letters: int) -> list[Letter]:
        """Those whose time has come; `after` is then the last that was looked at, and before all where that was the end."""
        limit_us = int(self.settings.clock_ahead_limit_s * 1_000_000)
        ids, last = find_ripe(self.connection, group.due.fingerprint, group.after, limit_us, letters, LOOKED_AT)
        page = read_page(self.connection, sql.SQL("id = ANY ({})").format(ids), group.after, letters, PAGE_BYTES) if ids else []
        group.after = page[-1].id if len(page) < len(ids) and page else last
        return page

    def _replay(self, group: _Group, page: Sequence[Letter]) -> Summary | None:
        """
        Replay letters; None where the database was away meanwhile.

        It may be away for these letters only: somebody has locked their table. It is for all if that goes on.
        """
        tried = Summary()
        try:
            Replay(self.writer, shown=len(page)).replay_page(page, tried)
        except (DatabaseAway, psycopg.OperationalError) as exc:
            self._away += 1
            if self._away >= MAX_AWAY:
                raise
            logger.warning(
                "held letters are left for a later run: %s",
                exc,
                extra={"action": "held_left", "fingerprint": group.due.fingerprint},
            )
            return None
        finally:
            self._add(tried)
        return tried

    def _add(self, summary: Summary) -> None:
        self._summary.letters += summary.letters
        self._summary.remaining += summary.remaining
        add_counts(self._summary.outcomes, summary.outcomes)
