"""The plan of `make chaos`: a pure function of its seed, enough of each kind, and never two faults of one server at a time."""

from __future__ import annotations

import pytest

from tests.chaos.faults import FAULTS
from tests.chaos.plan import BROKERS, KINDS, LONG_FORM_EACH, Broker, make_plan


@pytest.mark.parametrize("broker", BROKERS)
def test_the_same_seed_gives_the_same_plan(broker: Broker) -> None:
    assert make_plan(7, broker) == make_plan(7, broker)
    assert make_plan(7, broker) != make_plan(8, broker)
    assert make_plan(7, broker, minutes=1).rounds == make_plan(7, broker).rounds[: len(make_plan(7, broker, minutes=1).rounds)]


def test_the_long_form_has_twenty_of_each_kind() -> None:
    counts = make_plan(7, "redis").counts() + make_plan(7, "rabbitmq").counts()
    assert counts == dict.fromkeys(KINDS, LONG_FORM_EACH)
    assert KINDS.keys() == FAULTS.keys()


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("seed", range(20))
def test_the_lanes_of_a_round_break_different_things(broker: Broker, seed: int) -> None:
    for lanes in make_plan(seed, broker).rounds:
        broken = [{fault.lane for fault in lane} for lane in lanes]
        assert 1 <= len(lanes) <= 3
        assert all(len(each) == 1 for each in broken)
        assert len(set.union(*broken)) == len(lanes)


def test_a_short_plan_fits_into_its_minutes_and_sees_many_kinds() -> None:
    plan = make_plan(7, "redis", minutes=2)
    assert plan.takes_s <= 120
    assert len(plan.counts()) >= 10
