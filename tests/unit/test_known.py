"""What a producer remembers of answers."""

from __future__ import annotations

from penstock_producers.known import Known


def test_a_long_mixture_of_outcomes_has_ended_though_it_is_not_remembered() -> None:
    known = Known(has_dropped=lambda first, last: (first, last) == (7, 8))
    for seq in range(50_000):
        known.forget_if_many()
        if seq not in (7, 8):
            known.learn("stored" if seq % 2 else "superseded", seq, seq)
    assert known.has_ended(49_999)
    assert not known.has_ended(50_000)
    assert known.find_outcome(9) is None
    assert known.find_outcome(49_999) == "stored"


def test_what_is_open_stays_open_when_the_rest_is_forgotten() -> None:
    known = Known(has_dropped=lambda _first, _last: False)
    for seq in range(50_000):
        known.forget_if_many()
        if seq != 300:
            known.learn("stored" if seq % 2 else "superseded", seq, seq)
    assert not known.has_ended(49_999)
    assert known.ended_below == 300
