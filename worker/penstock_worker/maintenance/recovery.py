"""The job that looks for incomplete records, offers them to whoever resumes them, and in the end gives them up."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from penstock_worker.errors import BrokerAway
from penstock_worker.maintenance.announce import open_announcer
from penstock_worker.maintenance.job import Work
from penstock_worker.maintenance.listening import why_deaf
from penstock_worker.settings import Settings
from penstock_worker.store.recovery.held import spoken_keys
from penstock_worker.store.recovery.interrupt import Interruption
from penstock_worker.store.recovery.late import end_by_themselves
from penstock_worker.store.recovery.listening import Ear, note_look
from penstock_worker.store.recovery.offers import due_offers, note_offers
from penstock_worker.store.recovery.recoveries import Recovery, purge_ended
from penstock_worker.store.recovery.rules import Rule, rules_of
from penstock_worker.store.recovery.search import Search
from penstock_worker.store.recovery.tree import without_table

__all__ = ["RecoveryScan"]

logger = logging.getLogger(__name__)

#: What one run does at most: open recoveries it looks at, per type; announcements; records it gives up, per type, and the rows
#: below them; ended recoveries it forgets.
CHECKS, OFFERS, ABANDONED, ROWS_BELOW, PURGED = 5_000, 1_000, 500, 20_000, 10_000
#: Announcements after which it is noted that they were made.
OFFERS_AT_ONCE = 50


@dataclass(frozen=True)
class RecoveryScan:
    """
    The scan; safe to run twice, also at once.

    Args:
        why_deaf: Why events may still be on their way, None where they are not; tests answer themselves.
    """

    why_deaf: Callable[[Settings], str | None] = why_deaf

    def run(self, work: Work) -> dict[str, Any]:
        """
        One scan, in this order: what came late ends by itself, what is silent for too long is given up, what is silent is
        searched for and recorded, and what is due is announced, after all this is committed.

        Nothing but the first is done for types of which silence means nothing now; `waits` names them, by the reason.
        """
        rules, waits = _rules(work)
        ended: Counter[str] = Counter()
        for rule in rules.values():
            ended += end_by_themselves(work.connection, work.registry, rule, work.now, CHECKS)
        ears = self._listen(work, rules, waits)
        interruption = Interruption(work.connection, work.registry, rules, work.now)
        for ear, spoken in ears:
            ended["interrupted"] += interruption.begin(ear.rule, spoken, ABANDONED)
        rows_below = interruption.finish(ROWS_BELOW)
        found, pages = _search(work, rules, ears)
        offered, unannounced = _offer(work, [ear.rule.record.name for ear, _ in ears])
        purge_ended(work.connection, work.now, timedelta(days=work.settings.recovery_keep_days), PURGED)
        counts: dict[str, Any] = {"found": found, "offered": offered, "pages": pages}
        counts |= {"ended": dict(+ended)} if +ended else {}
        counts |= {"interrupted_below": rows_below} if rows_below else {}
        counts |= {"unannounced": unannounced} if unannounced else {}
        return counts | ({"waits": waits} if waits else {})

    def _listen(self, work: Work, rules: Mapping[str, Rule], waits: dict[str, list[str]]) -> list[tuple[Ear, set[str]]]:
        """Add the types to `waits` of which nothing is concluded; for the others, who was heard of in held letters."""
        reason = self.why_deaf(work.settings)
        ears = []
        for name, rule in rules.items():
            # Half of what makes a record stale: an outage between two looks, and its end, are shorter than that.
            pause = max(rule.stale_after / 2, timedelta(seconds=2 * work.settings.recovery_every_s))
            ear = note_look(work.connection, rule, work.now, is_deaf=reason is not None, longest_pause=pause)
            spoken = spoken_keys(work.connection, work.registry, rule.record, work.now - rule.stale_after)
            if reason is not None:
                waits.setdefault(reason, []).append(name)
            elif not ear.may_conclude(work.now):
                waits.setdefault(f"silence counts from {ear.listens_since:%F %T} UTC", []).append(name)
            elif spoken is None:
                waits.setdefault("held letters may be about any of them", []).append(name)
            else:
                ears.append((ear, spoken))
        return ears


def _rules(work: Work) -> tuple[dict[str, Rule], dict[str, list[str]]]:
    """The rules of the types that have their tables, and the others by what they wait for: they stop nobody else."""
    rules = rules_of(work.registry, work.settings.recovery)
    waits: dict[str, list[str]] = {}
    for name, rule in list(rules.items()):
        if missing := without_table(work.connection, work.registry, rule.record):
            waits.setdefault(f"`penstock migrate up` makes the table of {', '.join(missing)}", []).append(name)
            del rules[name]
    return rules, waits


def _search(work: Work, rules: Mapping[str, Rule], ears: Sequence[tuple[Ear, set[str]]]) -> tuple[int, int]:
    """What was found and how many pages were read; each type has an equal part of what others leave over."""
    found = read = 0
    for place, (ear, spoken) in enumerate(ears):
        share = (work.settings.recovery_pages_per_run - read) // (len(ears) - place)
        some, pages = Search(work.connection, work.registry, rules, ear, work.now).run(share, spoken)
        found, read = found + some, read + pages
        work.progress(place + 1, len(ears))
    return found, read


def _offer(work: Work, types: Sequence[str]) -> tuple[int, str | None]:
    """Announce what is due; how many it were, and why not all. What perhaps was not announced is due at the next scan."""
    due = due_offers(work.connection, types, work.now, OFFERS)
    if not due:
        return 0, None
    offered = 0
    try:
        with open_announcer(work.settings) as announcer:
            for start in range(0, len(due), OFFERS_AT_ONCE):
                some = due[start : start + OFFERS_AT_ONCE]
                for recovery in some:
                    announcer.announce(recovery.type, "incomplete", _body(recovery))
                _note(work, some)
                offered += len(some)
    except BrokerAway as exc:
        logger.warning(
            "%d incomplete records are announced at the next scan: %s",
            len(due) - offered,
            exc,
            extra={"action": "announced_later"},
        )
        return offered, str(exc)
    return offered, None


def _note(work: Work, some: Sequence[Recovery]) -> None:
    pauses = (work.settings.recovery_offer_pause_s, work.settings.recovery_offer_max_pause_s)
    note_offers(work.connection, some, work.now, *(timedelta(seconds=pause) for pause in pauses))


def _body(recovery: Recovery) -> dict[str, Any]:
    return {
        "key": recovery.key,
        "recovery": recovery.id,
        "last_activity": recovery.last_activity.isoformat(),
        "offer": recovery.offers + 1,
    }
