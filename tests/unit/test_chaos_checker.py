"""The checker of `make chaos` on tables made by hand: it names what is lost, doubled and wrong, and nothing else."""

from __future__ import annotations

from typing import Any

from tests.cases import TYPES
from tests.chaos.checker import Found, Verdict, check
from tests.chaos.log import Published
from tests.model import fold

EPOCH = "0199a000-0000-7a00-9000-00000000000a"
TIME = TYPES["lab.reading"]["window"][0]


def event(seq: int, type: str, data: dict[str, Any], op: str = "upsert") -> dict[str, Any]:
    return {"epoch": EPOCH, "seq": seq, "type": type, "op": op, "version": 1_700_000_000_000_000 + seq, "data": data}


EVENTS = [
    event(0, "lab.pair", {"tenant": "a", "number": 1, "text": "first", "flag": True}),
    event(1, "lab.pair", {"tenant": "a", "number": 1, "text": "second", "flag": None}),
    event(2, "lab.mark", {"mark_id": "m"}),
    event(3, "lab.note", {"number": 7, "site_id": "s"}),
    event(4, "lab.mark", {"mark_id": "x" * 2_000}),
]
DEAD_ID = f"{EPOCH[:14]}8{EPOCH[15:24]}{4:012x}"


def published(**given: Any) -> list[Published]:
    return [Published(one, "w1", at=100.0 + one["seq"], **{"is_accepted": True, **given}) for one in EVENTS]


def found() -> Found:
    """What is there after all of it was stored as it should be."""
    rows, _ = fold(TYPES, EVENTS, 2**62)
    outcomes = {(EPOCH, seq): {"stored"} for seq in range(4)} | {(EPOCH, 0): {"superseded"}, (EPOCH, 4): {"dead"}}
    return Found(rows, outcomes, {DEAD_ID: ("dead", "invalid")})


def told(verdict: Verdict) -> dict[str, list[str]]:
    return {name: [each.what for each in getattr(verdict, name)] for name in ("lost", "doubled", "wrong")}


def test_all_as_it_should_be() -> None:
    verdict = check(TYPES, published(), found())
    assert (verdict.is_good, verdict.events, dict(verdict.endings)) == (True, 5, {"merged": 4, "dead or held": 1})


def test_an_event_without_an_outcome_is_lost() -> None:
    state = found()
    del state.outcomes[EPOCH, 2]
    del state.rows["lab.mark"]["m",]
    assert told(check(TYPES, published(), state)) == {"lost": ["no outcome"], "doubled": [], "wrong": []}


def test_a_row_that_the_ledger_tells_of_and_nobody_finds_is_lost() -> None:
    state = found()
    del state.rows["lab.mark"]["m",]
    assert told(check(TYPES, published(), state)) == {"lost": ["no row"], "doubled": [], "wrong": []}


def test_a_dead_event_without_its_letter_is_lost() -> None:
    state = found()
    state.letters.clear()
    assert told(check(TYPES, published(), state)) == {"lost": ["no dead letter"], "doubled": [], "wrong": []}


def test_a_row_of_no_event_is_doubled() -> None:
    state = found()
    state.rows["lab.reading"]["0c7b1a52-6a1e-4f5c-9d55-1f0a6c1d2e01", TIME] = {"value": 1.0}
    assert told(check(TYPES, published(), state)) == {"lost": [], "doubled": ["a row of no event"], "wrong": []}


def test_two_outcomes_that_exclude_each_other_are_doubled() -> None:
    state = found()
    state.outcomes[EPOCH, 2].add("dead")
    assert told(check(TYPES, published(), state)) == {"lost": [], "doubled": ["two outcomes"], "wrong": []}


def test_an_outcome_and_a_letter_of_no_event_are_doubled() -> None:
    state = found()
    state.outcomes[EPOCH, 5] = {"stored"}
    state.letters[EPOCH] = ("dead", "invalid")
    assert told(check(TYPES, published(), state)) == {
        "lost": [],
        "doubled": ["an outcome of no event", "a dead letter of no event"],
        "wrong": [],
    }


def test_a_row_that_took_an_older_event_is_wrong() -> None:
    state = found()
    state.rows["lab.pair"]["a", 1]["text"] = "first"
    verdict = check(TYPES, published(), state)
    assert told(verdict) == {"lost": [], "doubled": [], "wrong": ["row"]}
    assert verdict.wrong[0].detail == "lab.pair ('a', 1): text is 'first', expected 'second'"


def test_a_stored_event_that_should_be_dead_is_wrong() -> None:
    state = found()
    state.outcomes[EPOCH, 4] = {"stored"}
    assert told(check(TYPES, published(), state))["wrong"] == ["outcome"]


def test_an_event_whose_publish_never_returned_may_be_there_or_not() -> None:
    assert check(TYPES, published(is_accepted=False), found()).is_good
    nothing: Any = {name: {} for name in TYPES}
    verdict = check(TYPES, published(is_accepted=False), Found(nothing, {}, {}))
    assert (verdict.is_good, verdict.events) == (True, 0)


def test_a_wipe_excuses_what_of_spill_writers_was_in_the_broker() -> None:
    nothing = Found({name: {} for name in TYPES}, {}, {})
    wiped = {(EPOCH, seq) for seq in range(3)}
    verdict = check(TYPES, published(is_journaled=False), nothing, wiped)
    assert dict(verdict.endings) == {"excused": 3, "lost": 2}
    assert len(check(TYPES, published(), nothing, wiped).lost) == 5


def test_a_drop_is_a_loss_where_there_was_room() -> None:
    state = found()
    state.outcomes[EPOCH, 2] = {"dropped"}
    del state.rows["lab.mark"]["m",]
    assert told(check(TYPES, published(), state))["lost"] == ["dropped without need"]
    assert check(TYPES, published(may_drop=True), state).is_good


def test_a_placeholder_is_no_row_of_no_event() -> None:
    """A child that is deleted may have made one, and may not."""
    deleted = [Published(event(9, "lab.note", {"number": 8}, "delete"), "w1", 1.0, is_accepted=True)]
    made = [Published(event(8, "lab.note", {"number": 8, "site_id": "t"}), "w1", 1.0, is_accepted=True)]
    rows, _ = fold(TYPES, [one.event for one in made + deleted], 2**62)
    rows["lab.site"]["t",] = {"site_id": "t"}
    outcomes = {one.key: {"stored"} for one in made + deleted}
    assert check(TYPES, made + deleted, Found(rows, outcomes, {})).is_good


def test_a_dead_letter_of_a_stored_event_is_wrong_unless_it_was_held() -> None:
    state = found()
    stored_id = f"{DEAD_ID[:-12]}{2:012x}"
    state.letters[stored_id] = ("dead", "invalid")
    assert told(check(TYPES, published(), state)) == {"lost": [], "doubled": [], "wrong": ["dead letter"]}
    state.outcomes[EPOCH, 2].add("held")
    assert check(TYPES, published(), state).is_good
