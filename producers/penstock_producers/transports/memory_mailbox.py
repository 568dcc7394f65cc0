"""Answers without a broker, for tests."""

from __future__ import annotations

import threading
from collections import defaultdict

from penstock_schemas.answer import Answer, new_address

__all__ = ["MemoryMailbox", "MemoryPost"]


class MemoryPost:
    """What has been answered, by address, until its mailbox takes it."""

    def __init__(self) -> None:
        self._lines: defaultdict[str, list[bytes]] = defaultdict(list)
        self._arrived = threading.Condition()

    def answer(self, address: str, answer: Answer) -> None:
        """Put an answer there."""
        with self._arrived:
            self._lines[address].append(answer.line().encode())
            self._arrived.notify_all()

    def take(self, address: str, timeout_s: float) -> list[bytes]:
        """Wait for answers, and take them."""
        with self._arrived:
            self._arrived.wait_for(lambda: address in self._lines, timeout_s)
            return self._lines.pop(address, [])


class MemoryMailbox:
    """See `Mailbox`."""

    def __init__(self, post: MemoryPost) -> None:
        self.address = new_address()
        self._post = post

    def receive(self, timeout_s: float) -> list[bytes]:
        return self._post.take(self.address, timeout_s)

    def close(self) -> None:
        self._post.take(self.address, 0)

    def forget(self) -> None:
        """Nothing is shared with the parent but memory."""
