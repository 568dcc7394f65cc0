"""Receipts for the spool: what the worker says of journaled events, and what is to be asked about. See `listening.Listener`."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from uuid import UUID

from penstock_producers.spool.file import SpoolCorrupt, SpoolRefused
from penstock_producers.spool.stocks import Stocks
from penstock_schemas.answer import SeqRange

__all__ = ["Receipts"]

logger = logging.getLogger("penstock.producer")

#: Settled numbers of a journal that are deleted at one time, unless a second is over.
_SWEEP_ROWS = 5_000


class Receipts:
    """
    Args:
        name: Of the producer, for the log.
        first_held: The lowest number of this epoch that is in memory and not confirmed.
        on_lost: Called, without a lock held, when the broker has lost events of this epoch.
        wake: Called, without a lock held, when there is something to send that was not before.
    """

    def __init__(
        self,
        stocks: Stocks,
        name: str,
        *,
        first_held: Callable[[], float],
        on_lost: Callable[[], None],
        wake: Callable[[], None],
    ) -> None:
        self._stocks = stocks
        self._name = name
        self._first_held = first_held
        self._on_lost = on_lost
        self._wake = wake

    def overdue(self) -> Mapping[UUID, Sequence[SeqRange]]:
        stocks = self._stocks
        first_held = self._first_held()
        stocks.sweep()
        with stocks.first, stocks.section.lock, stocks.section:
            journals = [stock for stock in stocks.all() if stock.is_journal]
            for stock in journals:
                first = min(stock.unsent.first, first_held if stock is stocks.own else math.inf)
                with suppress(SpoolRefused, SpoolCorrupt):
                    stock.note(stock.next_seq or 0 if math.isinf(first) else int(first))
            return {stock.epoch: ranges for stock in journals if (ranges := stock.overdue())}

    def settled(self, epoch: UUID, outcome: str, first: int, last: int) -> None:  # noqa: ARG002  # every outcome is an end
        stocks = self._stocks
        with stocks.first, stocks.section.lock, stocks.section:
            stock = stocks.find(epoch)
            if stock is None or not stock.is_journal:
                return
            stock.settle(first, last)
            stocks.look(stock)
            is_due = stock.done.count >= _SWEEP_ROWS
        if is_due:
            stocks.sweep()

    def unknown(self, epoch: UUID, first: int, last: int) -> None:
        stocks = self._stocks
        with stocks.first, stocks.section.lock, stocks.section:
            stock = stocks.find(epoch)
            if stock is None or not stock.is_journal or not stock.lose(first, last):
                return
            stocks.look(stock)
            is_own = stock is stocks.own
        if is_own:
            self._on_lost()
        logger.warning(
            "%s: the broker has lost events %d to %d, they are sent again",
            self._name,
            first,
            last,
            extra={"action": "events_sent_again"},
        )
        self._wake()
