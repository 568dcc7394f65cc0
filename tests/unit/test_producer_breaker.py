"""The circuit breaker, turned by hand."""

from __future__ import annotations

import pytest

from penstock_producers.breaker import Breaker


def test_it_opens_at_the_third_failure_and_closes_at_the_first_success() -> None:
    breaker = Breaker(0.1, 5.0, jitter=lambda: 1.0)
    states = []
    for _ in range(3):
        breaker.begin()
        states.append(breaker.state)
        breaker.fail(now=10.0)
        states.append(breaker.state)
    assert states == ["closed", "closed", "closed", "closed", "closed", "open"]
    assert breaker.retry_at == pytest.approx(10.4)
    breaker.begin()
    assert (breaker.state, breaker.is_tripped, breaker.retry_at) == ("half_open", True, None)
    breaker.fail(now=11.0)
    assert (breaker.state, breaker.failures) == ("open", 4)
    breaker.begin()
    breaker.succeed()
    assert (breaker.state, breaker.is_tripped, breaker.failures) == ("closed", False, 0)


def test_delays_double_and_end_at_the_longest() -> None:
    breaker = Breaker(0.1, 5.0, jitter=lambda: 1.0)
    delays = [breaker.fail(now=0.0) for _ in range(8)]
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    assert Breaker(0.1, 5.0, jitter=lambda: 1.0).fail(now=0.0) == 0.1
    breaker.failures = 100_000
    assert breaker.fail(now=0.0) == 5.0


def test_the_whole_delay_is_left_to_chance_but_the_shortest() -> None:
    chance = iter([0.0, 0.5, 0.0, 1.0])
    breaker = Breaker(0.1, 5.0, jitter=lambda: next(chance))
    assert [breaker.fail(now=0.0) for _ in range(4)] == pytest.approx([0.1, 0.15, 0.1, 0.8])


def test_when_time_is_short_it_does_not_wait_long() -> None:
    breaker = Breaker(0.1, 5.0, jitter=lambda: 1.0)
    breaker.failures = 10
    assert breaker.fail(now=3.0, is_urgent=True) == 0.1
    assert (breaker.retry_at, breaker.state) == (3.1, "open")
