"""The stocks of one outbox: of its own file, made when the first event comes to it, and of those it has adopted."""

from __future__ import annotations

import math
import threading
from contextlib import suppress
from uuid import UUID

from penstock_producers.spool.file import SpoolCorrupt, SpoolRefused
from penstock_producers.spool.section import Section
from penstock_producers.spool.stock import Stock

__all__ = ["Stocks"]


class Stocks:
    """
    Changed inside the section only, which is never held around the network:

        with stocks.first, stocks.section.lock, stocks.section:
            ...

    What is known is read without it: publish() and status() wait for no disk.

    Args:
        publishers:
            The lock that a journal's publishers hold. It is taken before the section's: a finalizer that publishes while its
            thread is in here must not wait for a publisher who waits for the disk.
    """

    def __init__(self, publishers: threading.RLock | None) -> None:
        self.section = Section()
        self.first = self.section.lock if publishers is None else publishers
        self.own: Stock | None = None
        self.adopted: list[Stock] = []
        #: Events taken over so far from processes that have ended.
        self.adopted_events = 0
        self.is_closed = False
        #: Whether there is anything to be sent from disk, and the age of it.
        self.has_unsent = False
        self.oldest_at = math.inf
        #: The lowest number of this epoch that is to be sent from disk.
        self.first_unsent = math.inf

    # --- what is known

    @property
    def unsent(self) -> int:
        """Events that are to be sent from disk, adopted ones included."""
        return sum(stock.unsent.count for stock in self.all())

    @property
    def unreceipted(self) -> int:
        """Events of journals, adopted ones included, that have no receipt."""
        return sum(stock.rows.count for stock in self.all() if stock.is_journal)

    @property
    def has_journal(self) -> bool:
        """Whether receipts are to be listened for."""
        return any(stock.is_journal and stock.rows for stock in self.all())

    def all(self) -> list[Stock]:
        return [stock for stock in (self.own, *self.adopted) if stock is not None]

    def find(self, epoch: UUID) -> Stock | None:
        return next((stock for stock in self.all() if stock.epoch == epoch), None)

    # --- inside the section

    def look(self, stock: Stock) -> None:
        """After one of them has changed."""
        if stock is self.own:
            self.first_unsent = stock.unsent.first
        self._look_for_unsent()

    def look_at_all(self) -> None:
        """After one of them has gone."""
        self.first_unsent = self.own.unsent.first if self.own is not None else math.inf
        self._look_for_unsent()

    def _look_for_unsent(self) -> None:
        stocks = self.all()
        self.oldest_at = min((stock.oldest_at for stock in stocks), default=math.inf)
        self.has_unsent = any(stock.has_something for stock in stocks)

    def close(self) -> None:
        """Give all files back."""
        self.is_closed = True
        for stock in self.all():
            stock.close()
        self.own = None
        self.adopted = []
        self.look_at_all()

    # --- enter it by themselves

    def adopt(self, stock: Stock) -> bool:
        """Send it from now on. False when all was given back meanwhile; then that one is, too."""
        with self.first, self.section.lock, self.section:
            if self.is_closed:
                stock.close()
                return False
            self.adopted.append(stock)
            self.adopted_events += stock.rows.count
            self.look(stock)
            return True

    def sweep(self) -> None:
        """Delete what is done, and give back adopted files that are empty. What the disk refuses is tried again later."""
        with self.first, self.section.lock, self.section:
            for stock in self.all():
                with suppress(SpoolRefused, SpoolCorrupt):
                    stock.sweep()
            for stock in [stock for stock in self.adopted if not stock.is_needed]:
                self.adopted.remove(stock)
                stock.close()
            self.look_at_all()
