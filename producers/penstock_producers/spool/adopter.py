"""Adoption: the files that killed processes left are taken over, and sent as they would have sent them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from penstock_producers.options import Options
from penstock_producers.spool import folder
from penstock_producers.spool.file import SpoolFile, SpoolRefused
from penstock_producers.spool.folder import Lock
from penstock_producers.spool.stock import Stock
from penstock_producers.spool.stocks import Stocks

__all__ = ["Adopter"]

logger = logging.getLogger("penstock.producer")


class Adopter:
    """
    Args:
        place: The folder of this destination.
        wake: Called, without a lock held, when there is something to send that was not before.
        now: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        options: Options,
        place: Path,
        stocks: Stocks,
        wake: Callable[[], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        #: Events taken over so far.
        self.adopted = 0
        self._options = options
        self._place = place
        self._stocks = stocks
        self._wake = wake
        self._now = now

    def adopt(self) -> int:
        """
        Take over files of this destination whose owners have ended; how many. Reads them in whole.

        What cannot be read is set aside; what the disk does not let us read now is left for the next time.
        """
        adopted = 0
        for path, lock in folder.orphans(self._place):
            stock = self._open(path, lock)
            if stock is None:
                continue
            count = stock.rows.count
            if not self._stocks.adopt(stock):
                break
            adopted += 1
            self.adopted += count
            logger.info(
                "%s adopted %d events that %s left in %s",
                self._options.name,
                count,
                stock.producer,
                path,
                extra={"action": "spool_adopted", "events": count},
            )
        if adopted:
            self._stocks.sweep()
            self._wake()
        return adopted

    def _open(self, path: Path, lock: Lock) -> Stock | None:
        try:
            file = SpoolFile.open(path, max_bytes=self._options.spool_max_bytes)
            try:
                return Stock.adopt(UUID(path.stem), file, lock, self._now)
            except BaseException:
                file.close()
                raise
        except SpoolRefused as exc:
            logger.info("%s is adopted later: %s", path, exc)
            lock.release(is_done=False)
        except Exception as exc:  # noqa: BLE001  # whatever is in one file must not keep us from the others
            folder.set_aside(path, str(exc) or type(exc).__name__)
            lock.release(is_done=True)
        except BaseException:
            lock.release(is_done=False)
            raise
        return None
