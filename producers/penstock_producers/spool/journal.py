"""The buffer of durability "journal": an event is on disk before it has been accepted."""

from __future__ import annotations

import math
from collections.abc import Sequence

from penstock_producers.buffer import Buffer
from penstock_producers.drops import SPOOL_FULL
from penstock_producers.errors import BufferFull, ProducerClosed

__all__ = ["JournalBuffer"]

#: Events that are written at one time.
_STEP_EVENTS = 1_000
#: Seconds between two attempts to write, under the policy "block".
_BLOCKED_S = 1.0


class JournalBuffer(Buffer):
    """
    See `Buffer`. Memory holds events beside the disk while there is room; without, they are sent from disk.

    The policy is asked when the disk refuses, and not when memory is full. What is on disk is never given up for a newer event:
    "drop_oldest" means "drop_newest" here.
    """

    def accept(self, event: bytes) -> int:
        return self._accept_all([event])[0]

    def accept_many(self, events: Sequence[bytes]) -> list[int]:
        # All or none is asked for by one policy only; the others give the lock back between.
        step = max(1, len(events)) if self._options.policy == "raise" else _STEP_EVENTS
        return [seq for start in range(0, len(events), step) for seq in self._accept_all(events[start : start + step])]

    def _accept_all(self, events: Sequence[bytes]) -> list[int]:
        assert self.spool is not None
        policy = self._options.policy
        timeout_s = self._options.block_timeout_s
        deadline = math.inf if timeout_s is None else self._now() + timeout_s
        with self.lock:
            while not self.is_closing:
                # The numbers first: an event published by a signal handler in between then gets the next one.
                first = self.next_seq
                try:
                    self.next_seq = first + len(events)
                    rows = list(enumerate(events, first))
                    if self.spool.journal(rows):
                        return self._hold_all(rows)
                except BaseException:
                    self._account_all(first, events)
                    raise
                left_s = deadline - self._now() if policy == "block" else 0.0
                if policy in ("block", "raise") and self.next_seq == first + len(events):
                    self.next_seq = first
                else:
                    self._drop_all(first, len(events))
                    break
                if left_s <= 0:
                    raise BufferFull("the spool takes nothing: the disk is full, the cap is reached, or it cannot be written")
                self.progress.wait(min(left_s, _BLOCKED_S))
            else:
                raise ProducerClosed("the producer is closed")
        self.spool.tell()
        self._tell(len(events), SPOOL_FULL)
        return list(range(first, first + len(events)))

    def _hold_all(self, rows: Sequence[tuple[int, bytes]]) -> list[int]:
        assert self.spool is not None
        held, now = self.held, self._now()
        for seq, event in rows:
            size = len(event)
            if held.has_room(size):
                held.hold(seq, event, size, now)
            else:
                self.spool.leave_unsent(seq)
                self.work.notify()
        return [seq for seq, _ in rows]

    def _account_all(self, first: int, events: Sequence[bytes]) -> None:
        """An exception came from outside: what may be on disk or not is written again, and sent from there."""
        assert self.spool is not None
        if self.next_seq > first and self.spool.journal(list(enumerate(events, first))):
            held = set(self.held.unsent_seqs())
            for seq in range(first, first + len(events)):
                if seq not in held:
                    self.spool.leave_unsent(seq)
            self.held.restore()
        else:
            self._account(first, len(events))

    def _drop_all(self, first: int, count: int) -> None:
        for seq in range(first, first + count):
            self.drops.add(seq, SPOOL_FULL)
        self.work.notify()

    def abandon(self) -> int:
        """Forget what is in memory; none of it is given up, for it is on disk."""
        with self.lock:
            self._forget_all()
        return 0
