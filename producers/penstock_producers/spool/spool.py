"""
Events come to disk and go from there: into the outbox's own file, and out of that and of those it has adopted.

Nobody waits for the section who has the buffer's lock, but for a journal, which takes that one first. Trouble with the disk is
kept and told by `tell`, because a handler of logging may publish.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from uuid import UUID

from penstock_producers.drops import SPOOL_CORRUPT
from penstock_producers.options import Options
from penstock_producers.spool import folder
from penstock_producers.spool.file import SpoolCorrupt, SpoolFile, SpoolRefused
from penstock_producers.spool.folder import Lock
from penstock_producers.spool.stock import Stock
from penstock_producers.spool.stocks import Stocks
from penstock_producers.spool.trouble import Trouble
from penstock_schemas.answer import SeqRange
from penstock_schemas.wire import DroppedRange, Envelope

__all__ = ["Spool"]

#: Seconds after which a disk that refused is asked again.
_REFUSED_S = 1.0


class Spool:
    """
    Creating one touches no disk.

    Args:
        address: Broker and queue, see `folder.address_of`.
        wake: Called, without a lock held, when there is something to send that was not before.
        lose: Called, without a lock held, with numbers of this epoch that were to be sent and cannot be read any more.
        publishers: See `Stocks`; the lock that `journal` is called under.
        now: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        options: Options,
        epoch: UUID,
        address: str,
        *,
        wake: Callable[[], None],
        lose: Callable[[Sequence[SeqRange]], None],
        publishers: threading.RLock | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stocks = Stocks(publishers)
        # Taken before the section, everywhere but in `append`, which no journal does: one order for all.
        self._first, self._section = self.stocks.first, self.stocks.section
        self.is_journal = options.durability == "journal"
        #: No append is tried before this time: the disk has just refused one.
        self.refused_until = -math.inf
        #: Nobody waits for those who use the disk before this time: one has just done so in vain.
        self._busy_until = -math.inf
        #: No file is read before this time: a disk has just refused that.
        self._unreadable_until = -math.inf

        self._options = options
        self._epoch = epoch
        self._address = address
        self._wake = wake
        self._lose = lose
        self._now = now
        self._turn = 0
        self._trouble = Trouble(options.name)
        #: A file that could not be written, and why; to be set aside, unless somebody has done so meanwhile.
        self._corruption: tuple[SpoolFile, SpoolCorrupt] | None = None

    @property
    def folder(self) -> Path:
        """Of this destination."""
        root = Path(self._options.spool_folder) if self._options.spool_folder else folder.default_folder()
        return root / folder.destination_of(self._address)

    # --- coming

    def append(self, rows: Sequence[tuple[int, bytes]], accepted_at: float, patience_s: float | None = None) -> bool:
        """
        Move events to disk. False when the disk refuses; then none of them is there.

        Args:
            rows: Number and event of each.
            accepted_at: When the oldest of them was accepted.
            patience_s: Wait so long at most for others who use the disk; they may hang in it. None waits without end.
        """
        if self._section.is_mine or (patience_s is not None and self._now() < self._busy_until):
            return False
        lock = self._section.lock
        try:
            if not lock.acquire(timeout=-1 if patience_s is None else patience_s):
                self._busy_until = self._now() + _REFUSED_S
                return False
            with lock, self._section:
                lock.release()  # it is held by `with` from here on, see `Section`
                is_moved = self._append(rows, accepted_at)
        except BaseException:
            if self._section.is_mine:
                lock.release()
            raise
        if is_moved:
            self._wake()
        return is_moved

    def _append(self, rows: Sequence[tuple[int, bytes]], accepted_at: float) -> bool:
        stock = self._own_stock()
        if stock is None:
            return False
        try:
            stock.append(rows, accepted_at)
        except (SpoolRefused, SpoolCorrupt) as exc:
            self._refuse(exc)
            return False
        self._trouble.is_refusing = False
        self.stocks.look(stock)
        return True

    def journal(self, rows: Sequence[tuple[int, bytes]]) -> bool:
        """
        Write events that are held in memory too. False when the disk refuses; then none of them is there.

        An event that interrupts the writing of another, by a signal handler or a finalizer of the same thread, is written
        directly after that one: it returns a moment before it is on disk.
        """
        if self._section.is_mine:
            self._section.later(partial(self._journal, rows))
            return True
        with self._section.lock, self._section:  # the publishers' lock is the caller's
            return self._journal(rows)

    def _journal(self, rows: Sequence[tuple[int, bytes]]) -> bool:
        stock = self._own_stock()
        if stock is None:
            return False
        try:
            stock.journal(rows)
        except (SpoolRefused, SpoolCorrupt) as exc:
            self._refuse(exc)
            return False
        self._trouble.is_refusing = False
        return True

    def leave_unsent(self, seq: int) -> None:
        """A journaled event has no room in memory: it is sent from disk."""
        if self._section.is_mine:
            self._section.later(partial(self._leave_unsent, seq))
            return
        with self._first, self._section.lock, self._section:
            self._leave_unsent(seq)

    def _leave_unsent(self, seq: int) -> None:
        if self.stocks.own is not None:
            self.stocks.own.leave_unsent(seq, self._now())
            self.stocks.look(self.stocks.own)

    def _own_stock(self) -> Stock | None:
        """None while the disk refuses."""
        if self.stocks.is_closed or self._now() < self.refused_until:
            return None
        if self.stocks.own is None or self.stocks.own.file is None:
            try:
                self._open_own()
            except (SpoolRefused, SpoolCorrupt, OSError) as exc:
                self._refuse(exc)
                return None
        return self.stocks.own

    def _open_own(self) -> None:
        place = self.folder
        folder.prepare(place.parent)
        folder.prepare(place)
        path = place / f"{self._epoch}{folder.SPOOL}"
        lock = self.stocks.own.lock if self.stocks.own is not None else Lock.take(path)
        if lock is None:
            raise SpoolRefused(f"{path} is locked by another process")
        try:
            meta = {
                "epoch": str(self._epoch),
                "producer": self._options.name,
                "address": self._address,
                "journal": int(self.is_journal),
                "fsync": int(self._options.fsync),
            }
            file = SpoolFile.create(path, meta, max_bytes=self._options.spool_max_bytes, is_synced=self._options.fsync)
        except BaseException:
            if self.stocks.own is None:
                lock.release(is_done=True)
            raise
        if self.stocks.own is None:
            self.stocks.own = Stock(self._epoch, self._options.name, file, lock, is_journal=self.is_journal, now=self._now)
        else:
            self.stocks.own.file = file

    def _refuse(self, error: Exception) -> None:
        self.refused_until = self._now() + _REFUSED_S
        if isinstance(error, SpoolCorrupt) and self.stocks.own is not None and self.stocks.own.file is not None:
            self._corruption = (self.stocks.own.file, error)
        self._trouble.refuse(error)

    def tell(self) -> None:
        """Log trouble with the disk, once for each time it begins, and leave a corrupt file. Never called with a lock held."""
        corruption, self._corruption = self._corruption, None
        own = self.stocks.own
        if corruption is not None and own is not None:
            self._set_aside(own, *corruption)
        self._trouble.tell(self.folder)

    # --- going

    def due_in_s(self) -> float:
        """Seconds until something is to be sent from disk: infinity for nothing, more than 0 while the disk refuses."""
        return max(0.0, self._unreadable_until - self._now()) if self.stocks.has_unsent else math.inf

    @property
    def is_entered(self) -> bool:
        """Whether this thread is in the middle of something here."""
        return self._section.is_mine

    def take(self, limit: int, limit_events: int, limit_bytes: int, reply_to: str | None) -> list[Envelope]:
        """
        What to send next, from all files alike, so that none waits for another.

        Args:
            limit: Envelopes.
            limit_events: Of each envelope.
            limit_bytes: Of each envelope, and about four times as many in all.
            reply_to: Of each envelope.
        """
        with self._first, self._section.lock, self._section:
            stocks = [stock for stock in self.stocks.all() if stock.has_something]
            self._turn += 1
            turned = self._turn % len(stocks) if stocks else 0
        taken: list[Envelope] = []
        places = [(stock, 0) for stock in stocks[turned:] + stocks[:turned]]
        size = 0
        while places and len(taken) < limit and size < 4 * limit_bytes:
            stock, start = places.pop(0)
            envelope = self._next_of(stock, start, limit_events, limit_bytes, reply_to)
            if envelope is not None:
                taken.append(envelope)
                size += sum(map(len, envelope.events))
                places.append((stock, envelope.seq + max(1, len(envelope.events))))
        return taken

    def _next_of(self, stock: Stock, start: int, limit_events: int, limit_bytes: int, reply_to: str | None) -> Envelope | None:
        # The lock is given back between envelopes, so that publish() in journal mode waits for one being read at most.
        corrupt: SpoolCorrupt | None = None
        with self._first, self._section.lock, self._section:
            file = stock.file
            if file is None:
                return None
            try:
                envelope = stock.next_envelope(start, limit_events, limit_bytes, reply_to)
            except SpoolRefused as exc:
                self._unreadable_until = self._now() + _REFUSED_S
                self._trouble.fail_to_read(exc)
                return None
            except SpoolCorrupt as exc:
                corrupt = exc
            else:
                self._trouble.is_unreadable = False
                gone = stock.take_gone()
                if stock is not self.stocks.own:
                    for part in gone:
                        stock.drop(*part, SPOOL_CORRUPT)
                    gone = []
                self.stocks.look(stock)
                envelope = envelope or (stock.closing_envelope() if start == 0 else None)
        if corrupt is not None:
            self._set_aside(stock, file, corrupt)
            return None
        if gone:
            self._lose(gone)
        return envelope

    def _set_aside(self, stock: Stock, file: SpoolFile, reason: Exception) -> None:
        lost: list[SeqRange] = []
        with self._first, self._section.lock, self._section:
            if stock.file is not file:
                return  # somebody was faster, and there may be a healthy one in its place
            stock.file = None
            if stock is self.stocks.own:
                self.stocks.own = None
                lost = [*stock.take_gone(), *stock.unsent]
            elif stock in self.stocks.adopted:
                self.stocks.adopted.remove(stock)
            file.close()
            self.stocks.look_at_all()
        folder.set_aside(file.path, str(reason))
        stock.lock.release(is_done=True)
        if lost:
            self._lose(lost)

    def confirm(self, envelope: Envelope) -> int:
        """The broker has it. How many of its events were counted as on disk and unsent, of this epoch."""
        with self._first, self._section.lock, self._section:
            stock = self.stocks.find(envelope.epoch)
            if stock is None:
                return 0
            if not envelope.events:
                stock.confirm_closing(envelope)
                count = 0
            else:
                count = stock.confirm(envelope.seq, envelope.seq + len(envelope.events) - 1)
            self.stocks.look(stock)
            return count if stock is self.stocks.own else 0

    def drop(self, epoch: UUID, seq: int, reason: str) -> None:
        """Give up an event. Of this outbox's own epoch the buffer tells the worker, of others their closing envelope."""
        with self._first, self._section.lock, self._section:
            stock = self.stocks.find(epoch)
            if stock is None:
                return
            if stock is self.stocks.own:
                stock.settle(seq, seq)
            else:
                stock.drop(seq, seq, reason)
            self.stocks.look(stock)

    def close(self, next_seq: int | None = None, dropped: Sequence[DroppedRange] = ()) -> None:
        """
        Give all files back.

        Args:
            next_seq: The number after this epoch's last one, where nothing of it was lost: for who adopts the file.
            dropped: What the worker has not heard of yet; for the same.
        """
        with self._first, self._section.lock, self._section:
            if self.stocks.own is not None and next_seq is not None and self.stocks.own.rows:
                with suppress(SpoolRefused, SpoolCorrupt):
                    self.stocks.own.note_end(next_seq, dropped)
            self.stocks.close()
