"""Trouble with the disk: noted where it is met, told later where no lock is held, because a handler of logging may publish."""

from __future__ import annotations

import logging
from pathlib import Path

__all__ = ["Trouble"]

logger = logging.getLogger("penstock.producer")


class Trouble:
    """
    Each kind is told once for each time it begins.

    Args:
        name: Of the producer.
    """

    def __init__(self, name: str) -> None:
        #: The disk's last answer was a refusal; set back by who succeeds.
        self.is_refusing = False
        self.is_unreadable = False
        self._name = name
        self._refusal: str | None = None
        self._unread: str | None = None

    def refuse(self, error: Exception) -> None:
        """The disk takes nothing."""
        if not self.is_refusing:
            self.is_refusing = True
            self._refusal = str(error)

    def fail_to_read(self, error: Exception) -> None:
        """What is on disk cannot be read now."""
        if not self.is_unreadable:
            self.is_unreadable = True
            self._unread = str(error)

    def tell(self, folder: Path) -> None:
        """Log what was noted since."""
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            logger.warning(
                "%s: the spool in %s takes nothing, events stay in memory and are dropped by policy when that is full: %s",
                self._name,
                folder,
                refusal,
                extra={"action": "spool_refused"},
            )
        unread, self._unread = self._unread, None
        if unread is not None:
            logger.warning(
                "%s: the spool in %s cannot be read now, its events stay there and it is tried again every second: %s",
                self._name,
                folder,
                unread,
                extra={"action": "spool_unread"},
            )
