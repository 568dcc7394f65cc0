"""
Adoption: the files that killed processes left are taken over, and sent as they would have sent them.

In a thread of its own: to look through a large file takes seconds, in which the keeper must be free to move events to disk.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from penstock_producers.options import Options
from penstock_producers.spool import folder
from penstock_producers.spool.file import SpoolCorrupt, SpoolFile, SpoolRefused
from penstock_producers.spool.folder import Lock
from penstock_producers.spool.stock import Stock
from penstock_producers.spool.stocks import Stocks
from penstock_producers.threads import start_thread

__all__ = ["Adopter"]

logger = logging.getLogger("penstock.producer")


class Adopter:
    """
    Args:
        place: The folder of this destination.
        on_adopted: Called, without a lock held, after files were taken over.
        now: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        options: Options,
        place: Path,
        stocks: Stocks,
        on_adopted: Callable[[], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._place = place
        self._stocks = stocks
        self._on_adopted = on_adopted
        self._now = now
        #: Files that are being looked through.
        self.reading: set[Path] = set()
        #: No thread is at it.
        self._is_idle = threading.Event()
        self._is_idle.set()

    def start(self) -> None:
        """Adopt in another thread, unless one is at it."""
        if not self._is_idle.is_set() or not self._place.is_dir():
            return
        self._is_idle.clear()
        try:
            start_thread(self._run, f"penstock-{self._options.name}-adopter", self._is_idle.set)
        except RuntimeError as exc:  # at the very end of a process
            logger.debug("the adopter of %s cannot be started: %s", self._options.name, exc)

    def _run(self) -> None:
        try:
            self.adopt()
        except Exception:
            logger.exception("the adopter of %s failed, it is tried again later", self._options.name)
        finally:
            self._is_idle.set()

    def await_idle(self, timeout_s: float) -> bool:
        """Wait until the other thread has ended; whether it has."""
        return self._is_idle.wait(timeout_s)

    def adopt(self) -> int:
        """
        Take over files of this destination whose owners have ended; how many. Reads them in whole.

        What cannot be read is set aside; what the disk does not let us read now is left for the next time.
        """
        adopted = 0
        for path, lock in folder.orphans(self._place):
            self.reading.add(path)
            try:
                adopted += self._adopt(path, lock)
            finally:
                self.reading.discard(path)
            if self._stocks.is_closed:
                break
        if adopted:
            self._stocks.sweep()
            self._on_adopted()
        return adopted

    def _adopt(self, path: Path, lock: Lock) -> bool:
        stock = self._open(path, lock)
        if stock is None:
            return False
        count = stock.rows.count
        if not self._stocks.adopt(stock):
            return False
        logger.info(
            "%s adopted %d events that %s left in %s",
            self._options.name,
            count,
            stock.producer,
            path,
            extra={"action": "spool_adopted", "events": count},
        )
        return True

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
        except (SpoolCorrupt, ValueError, KeyError, TypeError) as exc:  # the last three: of facts that are none
            folder.set_aside(path, str(exc) or type(exc).__name__)
            lock.release(is_done=True)
        except Exception:
            # No memory, or an error of ours: the file may be healthy, and must not keep us from the others.
            logger.exception("%s is adopted later", path)
            lock.release(is_done=False)
        except BaseException:
            lock.release(is_done=False)
            raise
        return None
