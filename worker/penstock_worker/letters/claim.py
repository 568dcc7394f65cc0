"""
What a replay does inside the writer's transaction: lock its letters, and afterwards delete, change or add letters.

So a letter is in its table until the transaction that ends its event otherwise, and no longer. A replay that is killed leaves
what it has not committed as it was; of two at once each takes what the other has not locked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from penstock_worker.ingest.account import Lettered, count_outcomes, entries_of, hold, letters_of, sightings_of
from penstock_worker.ingest.decode import Decoded, Refused
from penstock_worker.letters.reading import Source
from penstock_worker.letters.rows import RowLook
from penstock_worker.letters.summary import Ending, RowChange
from penstock_worker.settings import Settings
from penstock_worker.store.connection import Connection
from penstock_worker.store.dead_letters import Letter, fingerprints_over_rate, record_letters
from penstock_worker.store.ledger import record_entries, record_sightings
from penstock_worker.store.stored_letters import change_letters, lock_letters, remove_letters

__all__ = ["ReplayClaim", "merge"]


class ReplayClaim:
    """
    One chunk of letters; a `Claim` for the writer. After the writer's `store`, `endings` tell of the letters that were ours.

    Args:
        sources: The letters and what was read from them.
        settings: The rate above which letters are held.
        is_rehearsal: Roll everything back.
        is_patched: What was read is not what is in the letters, so that a letter that fails again is left as it is.
        rows_shown: Rows to compare before and after.
    """

    def __init__(
        self, sources: Sequence[Source], settings: Settings, *, is_rehearsal: bool, is_patched: bool, rows_shown: int = 0
    ) -> None:
        self.is_rehearsal = is_rehearsal
        self.endings: list[Ending] = []
        self.rows: list[RowChange] = []
        self._sources, self._settings, self._is_patched, self._rows_shown = sources, settings, is_patched, rows_shown
        self._taken: list[Source] = []
        self._look: RowLook | None = None

    @property
    def busy(self) -> list[UUID]:
        """Letters that somebody else had in hand."""
        taken = {source.letter.id for source in self._taken}
        return [source.letter.id for source in self._sources if source.letter.id not in taken]

    def take(self, connection: Connection, decoded: Decoded) -> Decoded:
        """See `Claim`."""
        del decoded
        locked = lock_letters(connection, [source.letter.id for source in self._sources])
        self._taken = [source for source in self._sources if source.letter.id in locked]
        part = merge(source.decoded for source in self._taken)
        if self._rows_shown:
            self._look = RowLook(connection, part.events, self._rows_shown)
        return part

    def account(self, connection: Connection, decoded: Decoded) -> None:
        """See `Claim`."""
        self._hold(connection, decoded)
        accounted: list[Source] = []
        gone: list[UUID] = []
        changed: list[Letter] = []
        added: list[Letter] = []
        self.endings = []
        for source in self._taken:
            lettered = letters_of(source.decoded)
            again = next((letter for letter, subject in lettered if _is_all_of(subject, source)), None)
            if again is None:
                gone.append(source.letter.id)
                added += [letter for letter, _ in lettered]
            elif not self._is_patched:
                again.id = source.letter.id
                changed += [again] if _differ(again, source.letter) else []
            if again is None or (not self._is_patched and again.state != source.letter.state):
                accounted.append(source)
            self.endings.append(_ending(source, lettered, is_held=again is not None and again.state == "held"))
        remove_letters(connection, gone)
        change_letters(connection, changed)
        record_letters(connection, added)
        record_entries(connection, entries_of(merge(source.decoded for source in accounted)))
        # An event's own letter tells nothing new of its producer, and an old one is no sign of life.
        messages = merge(source.decoded for source in accounted if source.letter.event_id is None)
        record_sightings(connection, sightings_of(messages, known=set()))
        self.rows = self._look.changes(connection) if self._look else []

    def _hold(self, connection: Connection, decoded: Decoded) -> None:
        lettered = letters_of(decoded)
        rate = self._settings.dead_letter_rate_per_minute
        hold(lettered, fingerprints_over_rate(connection, [letter for letter, _ in lettered], rate, are_new=False))


def merge(parts: Iterable[Decoded]) -> Decoded:
    """Several batches as one."""
    merged = Decoded()
    for part in parts:
        merged.envelopes += part.envelopes
        merged.events += part.events
        merged.refused += part.refused
    return merged


def _is_all_of(subject: object, source: Source) -> bool:
    """Whether a new letter is about the very thing that the old one is about, so that it is the same letter still."""
    if source.letter.event_id is not None:
        return True
    return isinstance(subject, Refused) and subject.event_id is None


def _differ(new: Letter, old: Letter) -> bool:
    names = ("state", "reason", "detail", "sqlstate", "constraint", "column", "type")
    return any(getattr(new, name) != getattr(old, name) for name in names)


def _ending(source: Source, lettered: Sequence[Lettered], *, is_held: bool) -> Ending:
    letter, why = source.letter, lettered[0].letter if lettered else None
    ending = Ending(letter.id, letter.fingerprint, count_outcomes(source.decoded), len(lettered), is_held=is_held)
    if why:
        ending.reason, ending.detail = why.reason, why.detail
    return ending
