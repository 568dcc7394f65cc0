"""
All spool files of one outbox: its own, made when the first event comes to it, and those it has adopted.

One lock, never held around the network. Nobody waits for it who has the buffer's, but for a journal, which takes that one
first. Trouble with the disk is kept and told by `tell`, because a handler of logging may publish.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from uuid import UUID

from penstock_producers.options import Options
from penstock_producers.spool import folder
from penstock_producers.spool.file import SpoolCorrupt, SpoolFile, SpoolRefused
from penstock_producers.spool.folder import Lock
from penstock_producers.spool.section import Section
from penstock_producers.spool.stock import Stock
from penstock_schemas.answer import SeqRange
from penstock_schemas.wire import DroppedRange, Envelope

__all__ = ["Spool"]

logger = logging.getLogger("penstock.producer")

#: Seconds after which a disk that refused is asked again.
_REFUSED_S = 1.0
#: Settled numbers of the journal that are deleted at one time, unless a second is over.
_SWEEP_ROWS = 5_000


class Spool:
    """
    Creating one touches no disk.

    Args:
        address: Broker and queue, see `folder.address_of`.
        first_held: The lowest number that is in memory and not confirmed.
        wake: Called, without a lock held, when there is something to send that was not before.
        lose: Called, without a lock held, with numbers of this epoch that were to be sent and cannot be read any more.
        publishers:
            The lock that `journal` is called under. The spool takes it too, before its own: a finalizer that publishes while
            its thread is in here must not wait for a publisher who waits for the disk.
        now: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        options: Options,
        epoch: UUID,
        address: str,
        *,
        first_held: Callable[[], float],
        wake: Callable[[], None],
        lose: Callable[[Sequence[SeqRange]], None],
        publishers: threading.RLock | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._section = Section()
        # Taken before the section, everywhere but in `append`, which no journal does: one order for all.
        self._first = self._section.lock if publishers is None else publishers
        self.is_journal = options.durability == "journal"
        #: Read without the lock: whether there is anything to be sent from disk, and the age of it.
        self.has_unsent = False
        self.oldest_at = math.inf
        #: The lowest number of this epoch that is to be sent from disk.
        self.first_unsent = math.inf
        #: No append is tried before this time: the disk has just refused one.
        self.refused_until = -math.inf
        #: Nobody waits for those who use the disk before this time: one has just done so in vain.
        self._busy_until = -math.inf
        self.is_closed = False
        #: Events taken over from processes that have ended.
        self.adopted = 0
        #: No file is read before this time: a disk has just refused that.
        self._unreadable_until = -math.inf

        self._options = options
        self._epoch = epoch
        self._address = address
        self._first_held = first_held
        self._wake = wake
        self._lose = lose
        self._now = now
        self._own: Stock | None = None
        self._adopted: list[Stock] = []
        self._turn = 0
        self._trouble: str | None = None
        self._corruption: SpoolCorrupt | None = None
        self._is_in_trouble = False

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
        self._is_in_trouble = False
        self._look(stock)
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
        with self._first, self._section.lock, self._section:
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
        self._is_in_trouble = False
        return True

    def leave_unsent(self, seq: int) -> None:
        """A journaled event has no room in memory: it is sent from disk."""
        if self._section.is_mine:
            self._section.later(partial(self._leave_unsent, seq))
            return
        with self._first, self._section.lock, self._section:
            self._leave_unsent(seq)

    def _leave_unsent(self, seq: int) -> None:
        if self._own is not None:
            self._own.leave_unsent(seq, self._now())
            self._look(self._own)

    def _own_stock(self) -> Stock | None:
        """None while the disk refuses."""
        if self.is_closed or self._now() < self.refused_until:
            return None
        if self._own is None or self._own.file is None:
            try:
                self._open_own()
            except (SpoolRefused, SpoolCorrupt, OSError) as exc:
                self._refuse(exc)
                return None
        return self._own

    def _open_own(self) -> None:
        place = self.folder
        folder.prepare(place.parent)
        folder.prepare(place)
        path = place / f"{self._epoch}{folder.SPOOL}"
        lock = self._own.lock if self._own is not None else Lock.take(path)
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
            if self._own is None:
                lock.release(is_done=True)
            raise
        if self._own is None:
            self._own = Stock(self._epoch, self._options.name, file, lock, is_journal=self.is_journal, now=self._now)
        else:
            self._own.file = file

    def _refuse(self, error: Exception) -> None:
        self.refused_until = self._now() + _REFUSED_S
        if isinstance(error, SpoolCorrupt):
            self._corruption = error
        if not self._is_in_trouble:
            self._is_in_trouble = True
            self._trouble = str(error)

    def tell(self) -> None:
        """Log trouble with the disk, once for each time it begins, and leave a corrupt file. Never called with a lock held."""
        corruption, self._corruption = self._corruption, None
        if corruption is not None and self._own is not None:
            self._set_aside(self._own, corruption)
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            logger.warning(
                "%s: the spool in %s takes nothing, events stay in memory and are dropped by policy when that is full: %s",
                self._options.name,
                self.folder,
                trouble,
                extra={"action": "spool_refused"},
            )

    # --- going

    def due_in_s(self) -> float:
        """Seconds until something is to be sent from disk: infinity for nothing, more than 0 while the disk refuses."""
        return max(0.0, self._unreadable_until - self._now()) if self.has_unsent else math.inf

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
            stocks = [stock for stock in (self._own, *self._adopted) if stock is not None and _has_something(stock)]
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
        with self._first, self._section.lock, self._section:
            if stock.file is None:
                return None
            try:
                envelope = stock.next_envelope(start, limit_events, limit_bytes, reply_to)
            except SpoolRefused as exc:
                self._unreadable_until = self._now() + _REFUSED_S
                self._trouble = str(exc)
                return None
            except SpoolCorrupt as exc:
                corrupt = exc
            else:
                self._look(stock)
                return envelope or (stock.closing_envelope() if start == 0 else None)
        self._set_aside(stock, corrupt)
        return None

    def _set_aside(self, stock: Stock, reason: Exception) -> None:
        lost: list[SeqRange] = []
        with self._first, self._section.lock, self._section:
            if stock is self._own:
                self._own = None
                lost = list(stock.unsent)
            elif stock in self._adopted:
                self._adopted.remove(stock)
            file, stock.file = stock.file, None
            if file is None:
                return
            file.close()
            self._look_at_all()
        folder.set_aside(file.path, str(reason))
        stock.lock.release(is_done=True)
        if lost:
            self._lose(lost)

    def confirm(self, envelope: Envelope) -> int:
        """The broker has it. How many of its events were counted as on disk and unsent, of this epoch."""
        with self._first, self._section.lock, self._section:
            stock = self._stock_of(envelope.epoch)
            if stock is None:
                return 0
            if envelope.is_closed:
                stock.is_end_due = False
                count = 0
            else:
                count = stock.confirm(envelope.seq, envelope.seq + len(envelope.events) - 1)
            self._look(stock)
            return count if stock is self._own else 0

    def sweep(self) -> None:
        """Delete what is done, and give back adopted files that are empty. What the disk refuses is tried again later."""
        with self._first, self._section.lock, self._section:
            for stock in [stock for stock in (self._own, *self._adopted) if stock is not None]:
                with suppress(SpoolRefused, SpoolCorrupt):
                    stock.sweep()
            for stock in [stock for stock in self._adopted if not stock.rows and not stock.is_end_due]:
                self._adopted.remove(stock)
                stock.close()
            self._look_at_all()

    def adopt(self) -> int:
        """
        Take over files of this destination whose owners have ended; how many. Reads them in whole.

        What cannot be read is set aside; what the disk does not let us read now is left for the next time.
        """
        adopted = 0
        for path, lock in folder.orphans(self.folder):
            try:
                file = SpoolFile.open(path, max_bytes=self._options.spool_max_bytes)
                try:
                    stock = Stock.adopt(UUID(path.stem), file, lock, self._now)
                except BaseException:
                    file.close()
                    raise
            except SpoolRefused as exc:
                logger.info("%s is adopted later: %s", path, exc)
                lock.release(is_done=False)
                continue
            except Exception as exc:  # noqa: BLE001  # whatever is in one file must not keep us from the others
                folder.set_aside(path, str(exc) or type(exc).__name__)
                lock.release(is_done=True)
                continue
            except BaseException:
                lock.release(is_done=False)
                raise
            with self._first, self._section.lock, self._section:
                if self.is_closed:
                    stock.close()
                    break
                self._adopted.append(stock)
                self.adopted += stock.rows.count
                self._look(stock)
            adopted += 1
            logger.info(
                "%s adopted %d events that %s left in %s",
                self._options.name,
                stock.rows.count,
                stock.producer,
                path,
                extra={"action": "spool_adopted", "events": stock.rows.count},
            )
        if adopted:
            self.sweep()
            self._wake()
        return adopted

    def close(self, next_seq: int | None = None, dropped: Sequence[DroppedRange] = ()) -> None:
        """
        Give all files back.

        Args:
            next_seq: The number after this epoch's last one, where nothing of it was lost: for who adopts the file.
            dropped: What the worker has not heard of yet; for the same.
        """
        with self._first, self._section.lock, self._section:
            self.is_closed = True
            if self._own is not None and next_seq is not None and self._own.rows:
                with suppress(SpoolRefused, SpoolCorrupt):
                    self._own.note_end(next_seq, dropped)
            for stock in [stock for stock in (self._own, *self._adopted) if stock is not None]:
                stock.close()
            self._own = None
            self._adopted = []
            self._look_at_all()

    # --- what is known, read without the lock: publish() and status() wait for no disk

    @property
    def unsent(self) -> int:
        """Events that are to be sent from disk, adopted ones included."""
        return sum(stock.unsent.count for stock in self._stocks())

    @property
    def unreceipted(self) -> int:
        """Events of journals, adopted ones included, that have no receipt."""
        return sum(stock.rows.count for stock in self._stocks() if stock.is_journal)

    @property
    def has_journal(self) -> bool:
        """Whether receipts are to be listened for."""
        return any(stock.is_journal and stock.rows for stock in self._stocks())

    def _stocks(self) -> list[Stock]:
        return [stock for stock in (self._own, *self._adopted) if stock is not None]

    def _stock_of(self, epoch: UUID) -> Stock | None:
        return next((stock for stock in self._stocks() if stock.epoch == epoch), None)

    def _look(self, stock: Stock) -> None:
        if stock is self._own:
            self.first_unsent = stock.unsent.first
        self.oldest_at = min(stock.oldest_at for stock in self._stocks())
        self.has_unsent = any(_has_something(stock) for stock in self._stocks())

    def _look_at_all(self) -> None:
        self.first_unsent = self._own.unsent.first if self._own is not None else math.inf
        self.oldest_at = min((stock.oldest_at for stock in self._stocks()), default=math.inf)
        self.has_unsent = any(_has_something(stock) for stock in self._stocks())

    # --- listening for receipts, see `penstock_producers.answers.Listener`

    def overdue(self) -> Mapping[UUID, Sequence[SeqRange]]:
        first_held = self._first_held()
        self.sweep()
        with self._first, self._section.lock, self._section:
            journals = [stock for stock in self._stocks() if stock.is_journal]
            for stock in journals:
                first = min(stock.unsent.first, first_held if stock is self._own else math.inf)
                with suppress(SpoolRefused, SpoolCorrupt):
                    stock.note(stock.next_seq or 0 if math.isinf(first) else int(first))
            return {stock.epoch: ranges for stock in journals if (ranges := stock.overdue())}

    def settled(self, epoch: UUID, outcome: str, first: int, last: int) -> None:  # noqa: ARG002  # every outcome is an end
        with self._first, self._section.lock, self._section:
            stock = self._stock_of(epoch)
            if stock is None or not stock.is_journal:
                return
            stock.settle(first, last)
            self._look(stock)
            is_due = stock.done.count >= _SWEEP_ROWS
        if is_due:
            self.sweep()

    def unknown(self, epoch: UUID, first: int, last: int) -> None:
        with self._first, self._section.lock, self._section:
            stock = self._stock_of(epoch)
            if stock is None or not stock.is_journal or not stock.lose(first, last):
                return
            self._look(stock)
        logger.warning(
            "%s: the broker has lost events %d to %d, they are sent again",
            self._options.name,
            first,
            last,
            extra={"action": "events_sent_again"},
        )
        self._wake()


def _has_something(stock: Stock) -> bool:
    return bool(stock.unsent) or stock.closing_envelope() is not None
