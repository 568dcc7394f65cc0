"""Publishers give way to each other, and nothing depends on it."""

from __future__ import annotations

import threading

import pytest

from penstock_producers import doorway as doorway_module
from penstock_producers.clock import HybridClock
from penstock_producers.doorway import Doorway
from tests.producing import make_buffer


class Pauses:
    """In place of `time.sleep`; at one of them the entrant goes on, or at none."""

    def __init__(self, doorway: Doorway, goes_at: int | None = None) -> None:
        self.count = 0
        self._doorway = doorway
        self._goes_at = goes_at

    def __call__(self, _pause_s: float) -> None:
        self.count += 1
        if self.count == self._goes_at:
            self._doorway.entrant = None


@pytest.mark.parametrize(("goes_at", "pauses"), [(1, 1), (3, 3), (None, doorway_module._PAUSES)])
def test_who_gives_way_waits_for_the_entrant_and_not_for_ever(
    goes_at: int | None, pauses: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    doorway = Doorway(threading.RLock())
    doorway.entrant = object()
    slept = Pauses(doorway, goes_at)
    monkeypatch.setattr(doorway_module.time, "sleep", slept)
    doorway.give_way()
    assert slept.count == pauses


def test_a_handler_that_interrupts_its_own_thread_inside_does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = threading.RLock()
    doorway = Doorway(lock)
    doorway.entrant = object()
    slept = Pauses(doorway)
    monkeypatch.setattr(doorway_module.time, "sleep", slept)
    with lock:
        doorway.give_way()
    assert slept.count == 0


def test_what_an_exception_left_behind_costs_the_next_event_a_moment_and_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer, clock = make_buffer(), HybridClock(lambda: 7_000)
    for doorway, enter, expected in [
        (buffer._doorway, lambda: buffer.accept(b"x"), [0, 1]),
        (clock._doorway, clock.next_version, [7, 8]),
    ]:
        doorway.entrant = object()
        slept = Pauses(doorway)
        monkeypatch.setattr(doorway_module.time, "sleep", slept)
        assert [enter(), enter()] == expected
        assert (slept.count, doorway.entrant) == (doorway_module._PAUSES, None)


def test_nobody_is_left_in_the_doorway_of_a_buffer_without_room() -> None:
    buffer = make_buffer(max_events=1)
    assert [buffer.accept(b"x"), buffer.accept(b"x")] == [0, 1]
    assert buffer._doorway.entrant is None
