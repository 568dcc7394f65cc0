"""
Events on their way from memory to the spool: pending ones first, then copies of what is in flight.

The keeper moves them when the broker takes nothing, and a publisher who finds memory full moves some himself: as many as make
room for the next thousand. Nobody holds the buffer's lock while they are written, so that publish() waits for no disk while
memory has room. A copy of what is in flight is the spool's from then on: its late confirm takes it out there. What the broker
refuses while it is copied is the move's, see `Held.put_back`: what is not in flight any more when its move ends was confirmed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

from penstock_producers.drops import CLOSE_DEADLINE, Drops
from penstock_producers.held import Held, Move

if TYPE_CHECKING:
    from penstock_producers.spool.spool import Spool

__all__ = ["Moves"]

#: Events and bytes that move at one time.
_MOVE_EVENTS = 1_000
_MOVE_BYTES = 1024 * 1024
#: Seconds since its begin that a publisher waits for another one's move, and for others who use the disk, before the policy is
#: asked: a disk may hang.
_PATIENCE_S = 1.0


class Moves:
    """
    Args:
        drops: Guarded by the lock of `held`.
        tell: See `Buffer`.
        now: A monotonic clock, in seconds.
    """

    def __init__(
        self, held: Held, drops: Drops, spool: Spool, tell: Callable[[int, str], None], now: Callable[[], float]
    ) -> None:
        self._held = held
        self._drops = drops
        self._spool = spool
        self._tell = tell
        self._now = now

    @property
    def is_mine(self) -> bool:
        """Whether this thread is in the middle of one: a signal handler has interrupted it."""
        return any(move.thread == threading.get_ident() for move in self._held.moving)

    def make_room(self) -> bool:
        """Move some, or wait until others have; False when the disk refuses or hangs. There may be less room again already."""
        is_moved = self.move(_PATIENCE_S)
        return is_moved or self._await_others(is_idle=is_moved is None)

    def move(self, patience_s: float | None = None) -> bool | None:
        """
        Move the oldest events, up to a thousand. None when there are none to move, False when the disk refuses.

        Args:
            patience_s: See `Spool.append`.
        """
        held = self._held
        move = Move(self._now())
        try:
            with held.lock:
                if not self._begin(move):
                    return False if self.is_mine else None
            rows = [(seq, event) for seq, event, _ in move.events]
            is_moved = self._spool.append(rows, move.events[0][2], patience_s)
            with held.lock:
                is_late = self._end(move, is_moved=is_moved)
        except BaseException:
            # Of a signal handler, or no memory: the events stay. What is on disk already will be there twice, which is once.
            with held.lock:
                self._end(move, is_moved=False)
                held.restore()
            raise
        if is_late and move.envelope is not None:
            self._spool.confirm(move.envelope)  # while it was written
        if move.lost:
            self._tell(move.lost, CLOSE_DEADLINE)
        return is_moved

    def _await_others(self, *, is_idle: bool) -> bool:
        """
        Wait until others have moved what there was to move; False when their disk hangs.

        Nobody does it: then they have done so meanwhile where there was nothing to move (`is_idle`), else the disk has refused.
        """
        held = self._held
        with held.lock:
            others = [move for move in held.moving if move.thread != threading.get_ident()]
            if not others:
                return is_idle
            left_s = others[0].begun_at + _PATIENCE_S - self._now()
            return held.progress.wait_for(lambda: others[0] not in held.moving, max(0.0, left_s))

    def await_all(self, timeout_s: float) -> bool:
        """Wait until nothing is moving; whether that is so."""
        with self._held.lock:
            return self._held.progress.wait_for(lambda: not self._held.moving, timeout_s)

    def _begin(self, move: Move) -> bool:
        held = self._held
        if self.is_mine:
            return False  # an event that interrupts a move moves nothing itself
        # Known before it takes anything, and taken by one call: at no moment an exception leaves events in neither place.
        held.moving.append(move)
        count = 0
        for _, event, _ in list(islice(held.pending, _MOVE_EVENTS)):
            if move.size >= _MOVE_BYTES:
                break
            count += 1
            move.size += len(event)
        move.events.extend(islice(iter(held.pending.popleft, None), count))
        held.pending_size -= move.size
        if not move.events and not self._copy_in_flight(move):
            held.moving.remove(move)
            return False
        return True

    def _copy_in_flight(self, move: Move) -> bool:
        held = self._held
        copied = [id(other.envelope) for other in held.moving]
        envelope = next((one for one in held.in_flight if one.events and id(one) not in copied), None)
        if envelope is None:
            return False
        accepted_at = held.accepted_at(envelope)
        move.envelope = envelope
        move.size = sum(map(len, envelope.events))
        move.events.extend([(seq, event, accepted_at) for seq, event in enumerate(envelope.events, envelope.seq)])
        return True

    def _end(self, move: Move, *, is_moved: bool) -> bool:
        """Whether it was confirmed meanwhile."""
        held = self._held
        if move not in held.moving:
            if held.is_abandoned and not is_moved:
                move.lost = len(move.events)
                self._drops.totals[CLOSE_DEADLINE] += move.lost
            return False
        is_in_flight = move.envelope is not None and held.is_in_flight(move.envelope)
        # What takes events from one place is after what puts them into another, for the same reason.
        if is_moved and (move.envelope is None or is_in_flight):
            held.moving.remove(move)
            if move.envelope is not None:
                self._drops.put_back(move.envelope.dropped)
                held.take_out(move.envelope)
            held.look_for_oldest()
            held.release(len(move.events), move.size)
        else:
            if move.envelope is None:
                held.pending.extendleft(reversed(move.events))
                held.pending_size += move.size
            held.moving.remove(move)
        held.wake()
        return is_moved and move.envelope is not None and not is_in_flight
