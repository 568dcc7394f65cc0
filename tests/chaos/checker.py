"""
What must be true when all is quiet again: every accepted event has one outcome, and the rows are what the reference model makes
of the events that are there. Pure: it is given what was published and what was found.

Three ways to be wrong:

- lost     accepted, and neither stored (or superseded), nor a dead letter; or told as stored, and its row is not there
- doubled  an effect that no event explains, or two outcomes that exclude each other
- wrong    a row, an outcome or a dead letter that differs from the model's

An event whose `publish()` never returned may be there or not: where it has an outcome it counts as published.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.log import Published
from tests.model import fold

__all__ = ["Finding", "Found", "Key", "Tables", "Verdict", "check"]

Tables = dict[str, dict[tuple[Any, ...], dict[str, Any]]]
Key = tuple[str, int]

_MERGED = {"stored", "superseded"}
#: Outcomes that may stand beside others: a held event may be stored later, and a drop may be told by a process that was killed.
_MAY_CHANGE = {"held", "dropped"}
#: Nothing here is from the future.
_LATEST = 2**62


@dataclass(frozen=True, slots=True)
class Found:
    """
    What the database holds.

    Args:
        rows: By type and key, without what is NULL.
        outcomes: By epoch and number.
        letters: State and reason by event id.
    """

    rows: Tables
    outcomes: Mapping[Key, set[str]]
    letters: Mapping[str, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it must be; `at` is when its event was published, the last one where a row has several."""

    what: str
    detail: str
    at: float = 0.0

    def __str__(self) -> str:
        """One line."""
        return f"{self.what}: {self.detail}"


@dataclass(slots=True)
class Verdict:
    """
    Findings by kind, and how events ended.

    `excused` are those of spill writers that a wiped broker took along, `dropped` those of writers that were made to run out of
    room, `unreturned` those whose `publish()` never returned and which are not there.
    """

    lost: list[Finding] = field(default_factory=list)
    doubled: list[Finding] = field(default_factory=list)
    wrong: list[Finding] = field(default_factory=list)
    endings: Counter[str] = field(default_factory=Counter)

    @property
    def is_good(self) -> bool:
        """Nothing was found."""
        return not (self.lost or self.doubled or self.wrong)

    @property
    def events(self) -> int:
        """Events that were accepted, or turned up though they were not."""
        return sum(self.endings.values()) - self.endings["unreturned"]


def check(types: Mapping[str, Any], published: Sequence[Published], found: Found, wiped: Collection[Key] = ()) -> Verdict:
    """
    Compare what was published with what is there.

    Args:
        types: As the reference model takes them.
        published: By all writers.
        found: At the end.
        wiped: Events that were in the broker when it lost its data: of spill writers they are excused.
    """
    verdict = Verdict()
    present = [
        one for one in published if _end(one, found.outcomes.get(one.key, set()), verdict, is_excused=one.is_excused(wiped))
    ]
    _check_strangers(published, found.outcomes, verdict)
    events = [one.event for one in present]
    expected, endings = fold(types, events, _LATEST)  # type: ignore[no-untyped-call]  # the model is plain Python
    _check_endings(endings, found, verdict)
    _check_rows(types, found.rows, expected, present, verdict)
    return verdict


def _end(one: Published, outcomes: set[str], verdict: Verdict, *, is_excused: bool) -> bool:
    """Count how an event ended; whether it is there."""
    final = outcomes - _MAY_CHANGE
    if len(final - _MERGED) + bool(final & _MERGED) > 1:
        verdict.doubled.append(Finding("two outcomes", f"{_name(one)} is {' and '.join(sorted(outcomes))}", one.at))
    if outcomes - {"dropped"}:
        verdict.endings["merged" if final & _MERGED else "dead or held"] += 1
        return True
    if outcomes and one.may_drop:
        verdict.endings["dropped"] += 1
    elif not outcomes and not one.is_accepted:
        verdict.endings["unreturned"] += 1
    elif is_excused:
        verdict.endings["excused"] += 1
    else:
        verdict.endings["lost"] += 1
        what = "dropped without need" if outcomes else "no outcome"
        verdict.lost.append(Finding(what, _name(one), one.at))
    return False


def _check_strangers(published: Iterable[Published], outcomes: Mapping[Key, set[str]], verdict: Verdict) -> None:
    for epoch, seq in sorted(outcomes.keys() - {one.key for one in published}):
        told = " and ".join(sorted(outcomes[epoch, seq]))
        verdict.doubled.append(Finding("an outcome of no event", f"{epoch} {seq} is {told}"))


def _check_endings(endings: Mapping[tuple[str, int, str], tuple[str, Any]], found: Found, verdict: Verdict) -> None:
    """Outcomes and dead letters, each against the model's."""
    letters = dict(found.letters)
    for (epoch, seq, event_id), (outcome, _) in endings.items():
        told = found.outcomes[epoch, seq] - {"dropped"}
        if not (told & _MERGED if outcome == "merged" else outcome in told):
            verdict.wrong.append(Finding("outcome", f"{epoch} {seq} is {' and '.join(sorted(told))}, not {outcome}"))
        letter = letters.pop(event_id, None)
        if outcome in ("dead", "held") and letter is None:
            verdict.lost.append(Finding("no dead letter", f"{epoch} {seq}"))
        # What was held and went in later keeps its letter only until the same transaction; a redelivery may bring it back.
        if outcome not in ("dead", "held") and letter is not None and not (told & _MERGED and "held" in told):
            verdict.wrong.append(Finding("dead letter", f"{epoch} {seq}: {letter}"))
    verdict.doubled += [Finding("a dead letter of no event", f"{event_id} {letter}") for event_id, letter in letters.items()]


def _check_rows(
    types: Mapping[str, Any], rows: Tables, expected: Tables, present: Sequence[Published], verdict: Verdict
) -> None:
    wanted = _wanted_parents(types, [one.event for one in present])
    last_at = {(one.event["type"], *map(one.event["data"].get, types[one.event["type"]]["key"])): one.at for one in present}
    for name, kind in types.items():
        for key in sorted(rows[name].keys() | expected[name].keys(), key=repr):
            found, right = rows[name].get(key), expected[name].get(key)
            if found == right:
                continue
            at = last_at.get((name, *key), 0.0)
            if right is None:
                # A placeholder of a child that is deleted: whether there was need of one depends on which came first.
                if (name, key) not in wanted or found is None or found.keys() != set(kind["key"]):
                    verdict.doubled.append(Finding("a row of no event", f"{name} {key}: {found}", at))
            elif found is None:
                verdict.lost.append(Finding("no row", f"{name} {key}, expected {right}", at))
            else:
                verdict.wrong.append(Finding("row", f"{name} {key}: {_difference(found, right)}", at))


def _wanted_parents(types: Mapping[str, Any], events: Iterable[Mapping[str, Any]]) -> set[tuple[str, tuple[Any, ...]]]:
    return {
        (types[event["type"]]["parent"][1], (event["data"].get(types[event["type"]]["parent"][0]),))
        for event in events
        if types[event["type"]]["parent"]
    }


def _difference(found: Mapping[str, Any], right: Mapping[str, Any]) -> str:
    names = [name for name in sorted(found.keys() | right.keys()) if found.get(name) != right.get(name)]
    return ", ".join(f"{name} is {found.get(name)!r}, expected {right.get(name)!r}" for name in names)


def _name(one: Published) -> str:
    event = one.event
    durability = "journal" if one.is_journaled else "spill"
    returned = "" if one.is_accepted else ", publish() did not return"
    return (
        f"{one.writer} ({durability}{returned}) {event['epoch']} {event['seq']} at {one.at:.3f}: {event['type']} {event['op']}"
    )
