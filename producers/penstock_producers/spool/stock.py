"""
What one spool file holds and how far each event of it is. Numbers are kept as ranges, so that a million cost nothing.

    rows       in the file, and not done
    unsent     of these, to be sent from the file (the others are in memory too, or wait for their receipt)
    awaiting   of these, confirmed by the broker and without a receipt (journal)
    done       no longer needed, and still in the file: deleted many at a time
    gone       were to be sent, and the file does not have them any more: somebody is to be told
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

from penstock_producers.drops import RANGES_PER_ENVELOPE
from penstock_producers.spool.file import SpoolCorrupt, SpoolFile, SpoolRefused
from penstock_producers.spool.folder import Lock
from penstock_schemas.answer import SeqRange
from penstock_schemas.ranges import Ranges
from penstock_schemas.wire import DroppedRange, Envelope

__all__ = ["Stock"]

#: Seconds after its confirm that a receipt may take, before it is asked for.
_RECEIPT_S = 2.0
#: Ranges of one question.
_MAX_RANGES = 300
#: Seconds between the ages that are remembered of events in the file.
_AGE_STEP_S = 1.0


class Stock:
    """
    Not safe under threads by itself: the spool's lock guards it.

    Args:
        producer: The name that the events are sent under.
        file: None for one that is emptied and gone; `append` and `journal` need one.
        now: A monotonic clock, in seconds.
    """

    def __init__(
        self, epoch: UUID, producer: str, file: SpoolFile | None, lock: Lock, *, is_journal: bool, now: Callable[[], float]
    ) -> None:
        self.epoch = epoch
        self.producer = producer
        self.file = file
        self.lock = lock
        self.is_journal = is_journal
        self.rows = Ranges()
        self.unsent = Ranges()
        self.done = Ranges()
        self._gone = Ranges()
        #: The number after the last one; None when it is not known, because the tail was in the memory of a killed process.
        self.next_seq: int | None = 0 if is_journal else None
        #: Its end is still to be told: nobody else will, and nothing more will come.
        self.is_end_due = False
        #: What was dropped of it and is still to be told, for the same reason; and whether the file has all of that.
        self._dropped: dict[str, Ranges] = {}
        self._is_drop_noted = True
        #: What of it was told, the end included, and must be told again should the broker lose it.
        self._told_drops: dict[str, Ranges] = {}
        self._is_end_told = False
        self._awaiting: deque[tuple[float, int, int]] = deque()
        #: (last number, when the oldest up to it was accepted), in order.
        self._ages: deque[tuple[int, float]] = deque()
        self._noted: tuple[int | None, int] = (0, 0)
        self._now = now

    @classmethod
    def adopt(cls, epoch: UUID, file: SpoolFile, lock: Lock, now: Callable[[], float]) -> Stock:
        """Of a file whose owner has ended. Raises SpoolRefused, SpoolCorrupt."""
        meta = file.meta()
        stock = cls(epoch, str(meta.get("producer", "")), file, lock, is_journal=bool(meta.get("journal")), now=now)
        ranges = file.ranges()
        sent_below = int(meta.get("sent_below", 0))
        for first, last in ranges:
            stock.rows.add(first, last)
            if last >= sent_below:
                stock.unsent.add(max(first, sent_below), last)
            if first < sent_below:
                # Confirmed when the owner lived: asked about, and sent again if nobody knows of them.
                stock._awaiting.append((-math.inf, first, min(last, sent_below - 1)))
        if stock.is_journal or "next_seq" in meta:
            stock.next_seq = max(int(meta.get("next_seq", 0)), ranges[-1][1] + 1 if ranges else 0)
            stock.is_end_due = stock.next_seq > 0
        else:
            stock.next_seq = None
        for first, last, reason in json.loads(meta.get("dropped", "[]")):
            stock._dropped.setdefault(reason, Ranges()).add(first, last)
        stock._note_age(ranges[-1][1] if ranges else 0, now())
        return stock

    # --- coming

    def append(self, rows: Sequence[tuple[int, bytes]], accepted_at: float) -> None:
        """From memory; sent from the file from now on. Raises SpoolRefused, SpoolCorrupt."""
        assert self.file is not None
        self.file.append(rows)
        for first, last in _spans(rows):
            # In this order: whatever comes in between, what is in the file is sent. What was done there before is not deleted.
            self.done.remove(first, last)
            self.unsent.add(first, last)
            self.rows.add(first, last)
        self._note_age(rows[-1][0], accepted_at)

    def journal(self, rows: Sequence[tuple[int, bytes]]) -> None:
        """Beside memory, numbered without gaps; all or none. Raises SpoolRefused, SpoolCorrupt."""
        assert self.file is not None
        self.file.append(rows)
        first, last = rows[0][0], rows[-1][0]
        self.rows.add(first, last)
        self.next_seq = max(self.next_seq or 0, last + 1)

    def leave_unsent(self, seq: int, accepted_at: float) -> None:
        """There was no room in memory beside it."""
        self.unsent.add(seq, seq)
        self._note_age(seq, accepted_at)

    def _note_age(self, last: int, accepted_at: float) -> None:
        if self._ages and accepted_at < self._ages[-1][1] + _AGE_STEP_S:
            self._ages[-1] = (max(last, self._ages[-1][0]), min(accepted_at, self._ages[-1][1]))
        else:
            self._ages.append((last, accepted_at))

    @property
    def oldest_at(self) -> float:
        """When about the oldest event that is to be sent was accepted; infinity when there is none."""
        while self._ages and self._ages[0][0] < self.unsent.first:
            self._ages.popleft()
        if not self.unsent:
            return math.inf
        return self._ages[0][1] if self._ages else self._now()

    # --- going

    def next_envelope(self, start: int, limit_events: int, limit_bytes: int, reply_to: str | None) -> Envelope | None:
        """The next events to be sent from `start` on, numbered without gaps. Raises SpoolRefused, SpoolCorrupt."""
        for first, last in self.unsent.within(start, min(start + (1 << 60), 1 << 62)):
            assert self.file is not None
            rows = self.file.read(first, min(last, first + limit_events - 1), limit_bytes)
            events = [event for place, (seq, event) in enumerate(rows, first) if seq == place]
            if events:
                return Envelope(self.producer, self.epoch, first, events, (), reply_to)
            self._miss(first, rows[0][0] - 1 if rows else min(last, first + limit_events - 1))
        return None

    def _miss(self, first: int, last: int) -> None:
        # In this order: an exception that comes in between has them missed once more.
        self._gone.add(first, last)
        self.rows.remove(first, last)
        self.unsent.remove(first, last)

    def take_gone(self) -> list[SeqRange]:
        """What `next_envelope` did not find; the caller's to tell now."""
        gone, self._gone = list(self._gone), Ranges()
        return gone

    @property
    def has_something(self) -> bool:
        """Whether anything of it is to be sent."""
        return bool(self.unsent) or self.is_end_due or self._is_drop_due

    @property
    def is_needed(self) -> bool:
        """Whether who comes after us has something to do with the file: events of it, or what is to be told of them."""
        return bool(self.rows) or self.is_end_due or self._is_drop_due

    @property
    def _is_drop_due(self) -> bool:
        return any(self._dropped.values())

    def closing_envelope(self) -> Envelope | None:
        """
        Once its events are sent: what of them was dropped, and that nothing more will come, if that is known.

        When many ranges were dropped it is the first of several; the last one says that it is the end.
        """
        if self.unsent or not (self.is_end_due or self._is_drop_due):
            return None
        dropped = _sorted_drops(self._dropped)
        next_seq = dropped[-1].last + 1 if self.next_seq is None else self.next_seq
        is_last = len(dropped) <= RANGES_PER_ENVELOPE
        return Envelope(
            self.producer, self.epoch, next_seq, (), dropped[:RANGES_PER_ENVELOPE], is_closed=self.is_end_due and is_last
        )

    def confirm_closing(self, envelope: Envelope) -> None:
        """The broker has that one."""
        for part in envelope.dropped:
            self._dropped.get(part.reason, Ranges()).remove(part.first, part.last)
            self._told_drops.setdefault(part.reason, Ranges()).add(part.first, part.last)
        if envelope.is_closed:
            self.is_end_due, self._is_end_told = False, True

    def confirm(self, first: int, last: int) -> int:
        """The broker has these, sent from memory or from here. How many were counted as to be sent from here."""
        count = sum(end - begin + 1 for begin, end in self.unsent.remove(first, last))
        if self.is_journal:
            self._awaiting.extend((self._now(), begin, end) for begin, end in self.rows.within(first, last))
        else:
            self.settle(first, last)
        return count

    def settle(self, first: int, last: int) -> None:
        """These are done for good."""
        for begin, end in self.rows.remove(first, last):
            self.unsent.remove(begin, end)
            self.done.add(begin, end)

    def drop(self, first: int, last: int, reason: str) -> None:
        """Give up events of an adopted file; its epoch is told by closing envelopes, if need be by the next who adopts it."""
        # In this order: what comes in between has them told, and not settled; then they are dropped once more.
        self._dropped.setdefault(reason, Ranges()).add(first, last)
        self._is_drop_noted = False
        self.settle(first, last)

    def lose(self, first: int, last: int) -> bool:
        """The broker has lost these: they are to be sent again. Whether there are any."""
        lost = self.rows.within(first, last)
        for begin, end in lost:
            self.unsent.add(begin, end)
            self._note_age(end, self._now())
        if lost:
            self._tell_again()
        return bool(lost)

    def _tell_again(self) -> None:
        for reason, ranges in self._told_drops.items():
            for first, last in ranges:
                self._dropped.setdefault(reason, Ranges()).add(first, last)
        self._told_drops.clear()
        self.is_end_due, self._is_end_told = self.is_end_due or self._is_end_told, False

    def overdue(self) -> list[SeqRange]:
        """What was confirmed some time ago and has no receipt."""
        overdue = Ranges()
        while self._awaiting and self._awaiting[0][0] < self._now() - _RECEIPT_S:
            _, first, last = self._awaiting.popleft()
            for begin, end in self.rows.within(first, last):
                overdue.add(begin, end)
        for first, last in self.unsent:
            overdue.remove(first, last)
        self._awaiting.extendleft((-math.inf, first, last) for first, last in reversed(list(overdue)))
        return list(overdue)[:_MAX_RANGES]

    def sweep(self) -> None:
        """Delete what is done. Raises SpoolRefused: it is tried again."""
        if self.file is None or (not self.done and self._is_drop_noted):
            return
        # Before it is deleted: who adopts the file after us drops again what is in it, and tells what is not.
        if self.is_journal:
            self.note()
        if not self._is_drop_noted:
            self.file.set_meta(dropped=_told(_sorted_drops(self._dropped, self._told_drops)))
            self._is_drop_noted = True
        try:
            self.file.delete(list(self.done))
        except SpoolRefused:
            if self.is_needed or self.is_journal:
                raise
            # On a full disk nothing can be deleted inside the file; the whole file can.
            file, self.file = self.file, None
            file.remove()
        self.done = Ranges()
        if not self.rows and self.file is not None and self.file.is_large:
            self.file.shrink()

    def note(self, sent_below: int | None = None) -> None:
        """For who adopts the file: how far numbers were given, and how far the broker has confirmed. Raises SpoolRefused."""
        facts = (self.next_seq, self._noted[1] if sent_below is None else sent_below)
        if self.file is None or facts == self._noted or self.next_seq is None:
            return
        self.file.set_meta(next_seq=facts[0], sent_below=facts[1])
        self._noted = facts

    def note_end(self, next_seq: int, dropped: Sequence[DroppedRange]) -> None:
        """For who adopts the file: all that was ever numbered is in it, was sent, or was dropped. Raises SpoolRefused."""
        if self.file is not None:
            self.file.set_meta(dropped=_told(dropped), next_seq=next_seq)
            self.next_seq = next_seq

    def close(self) -> None:
        """Give the file back: removed when nothing is in it, else an orphan from now on."""
        is_done = not self.is_needed
        if self.file is not None:
            try:
                if is_done:
                    self.file.remove()
                else:
                    self.sweep()
                    self.file.close()
            except (SpoolRefused, SpoolCorrupt):
                is_done = False
                self.file.close()
            self.file = None
        self.lock.release(is_done=is_done)


def _sorted_drops(*dropped: Mapping[str, Ranges]) -> list[DroppedRange]:
    parts = [(first, last, reason) for one in dropped for reason, ranges in one.items() for first, last in ranges]
    return [DroppedRange(*part) for part in sorted(parts)]


def _told(dropped: Sequence[DroppedRange]) -> str:
    """As the file keeps it."""
    return json.dumps([[part.first, part.last, part.reason] for part in dropped])


def _spans(rows: Sequence[tuple[int, bytes]]) -> Ranges:
    """Their numbers."""
    if rows[-1][0] - rows[0][0] == len(rows) - 1:
        return Ranges([(rows[0][0], rows[-1][0])])
    return Ranges((seq, seq) for seq, _ in rows)
