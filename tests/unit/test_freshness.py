"""When to guess that a batch's rows are all new."""

from __future__ import annotations

from penstock_worker.ingest.freshness import MAX_PAUSE_BATCHES, Freshness


def pauses(freshness: Freshness, wrong_guesses: int) -> list[int]:
    """Batches without a guess after each of so many that are wrong."""
    found = []
    for _ in range(wrong_guesses):
        freshness.learn(were_new=False)
        waited = 0
        while not freshness.is_likely():
            waited += 1
        found.append(waited)
    return found


def test_it_guesses_from_the_first_and_as_long_as_it_is_right():
    freshness = Freshness()
    for _ in range(3):
        assert freshness.is_likely()
        freshness.learn(were_new=True)


def test_wrong_guesses_become_rare():
    assert pauses(Freshness(), 9) == [1, 2, 4, 8, 16, 32, 64, MAX_PAUSE_BATCHES, MAX_PAUSE_BATCHES]


def test_a_right_guess_ends_the_pauses():
    freshness = Freshness()
    pauses(freshness, 4)
    freshness.learn(were_new=True)
    assert freshness.is_likely()
    assert pauses(freshness, 1) == [1]
