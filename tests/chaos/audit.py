"""
`penstock audit` against the checker: both have counted the same events, and must have come to the same.

The audit knows nothing of what was published: it reads ledger, producers' words and queue. So at the end of a run, when nothing
waits any more, each number that it calls missing is one that the harness knows to be gone, and its sums are the checker's.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.checker import Key
from tests.chaos.log import Published
from tests.commands import penstock

__all__ = ["Audited", "audit", "compare"]

#: Seconds that the command may take; ends a run that hangs.
_WITHIN_S = 600.0
_MERGED = ("stored", "superseded")
_ENDED = ("fenced", "expired", "dead", "held")
#: Numbers of events that are named.
_NAMED = 3


@dataclass(slots=True)
class Audited:
    """What the audit said, in a line, and where it contradicts what the harness knows."""

    line: str = "not asked"
    findings: list[str] = field(default_factory=list)


def audit(
    database_url: str,
    broker_url: str,
    published: Sequence[Published],
    outcomes: Mapping[Key, set[str]],
    wiped: Collection[Key],
) -> Audited:
    """
    Run the command as a person does, when all is quiet and no worker runs, and compare.

    Args:
        published: By all writers.
        outcomes: What the ledger tells, as the checker has read it.
        wiped: Events that were in the broker when it lost its data.
    """
    # No grace: what is still on its way now comes never.
    done = penstock(
        *("audit", "--json", "--grace", "0"),
        within_s=_WITHIN_S,
        PENSTOCK_DATABASE_URL=database_url,
        PENSTOCK_BROKER_URL=broker_url,
    )
    if done.returncode not in (0, 1, 3):
        return Audited("failed", [f"it ended with {done.returncode}: {done.stderr.strip()}"])
    audited = compare(json.loads(done.stdout), published, outcomes, wiped)
    audited.findings += [] if done.returncode != 3 else [done.stderr.strip()]
    return audited


def compare(
    report: dict[str, Any], published: Sequence[Published], outcomes: Mapping[Key, set[str]], wiped: Collection[Key]
) -> Audited:
    """What a report says, and all in it that contradicts what the harness knows; see `audit`."""
    epochs = [epoch for producer in report["producers"] for epoch in producer["epochs"]]
    sums: Counter[str] = sum((Counter(epoch["outcomes"]) for epoch in epochs), Counter())
    missing = {key for epoch in epochs for key in _missing(epoch)}
    counts = ", ".join(f"{count} {name}" for name, count in sorted(sums.items()))
    gone = {one.key for one in published if not one.is_accepted or one.is_excused(wiped)}
    line = f"{sum(epoch['sent'] for epoch in epochs)} sent, {counts}, {len(missing)} missing, {len(missing - gone)} unexplained"
    return Audited(line, [*_of_missing(missing, gone, epochs, published, outcomes), *_of_sums(sums, epochs, outcomes)])


def _missing(epoch: Mapping[str, Any]) -> Iterator[Key]:
    """Numbers of every gap, whatever its state: nothing is on its way any more."""
    for gap in epoch["gaps"]:
        yield from ((epoch["epoch"], seq) for seq in range(gap["first"], gap["last"] + 1))


def _of_missing(
    missing: set[Key],
    gone: set[Key],
    epochs: Sequence[Mapping[str, Any]],
    published: Sequence[Published],
    outcomes: Mapping[Key, set[str]],
) -> Iterator[str]:
    if unexplained := missing - gone:
        yield f"{_named(unexplained)} missing, and nobody has wiped them"
    if found := missing & outcomes.keys():
        yield f"{_named(found)} missing, and the ledger has them"
    sent = {epoch["epoch"]: epoch["sent"] for epoch in epochs}
    silent = {one.key for one in published if one.key not in outcomes and one.event["seq"] < sent.get(one.event["epoch"], 0)}
    if overlooked := silent - missing:
        yield f"{_named(overlooked)} without an outcome, and not missing"


def _of_sums(sums: Mapping[str, int], epochs: Sequence[Mapping[str, Any]], outcomes: Mapping[Key, set[str]]) -> Iterator[str]:
    endings = Counter(map(_ending, outcomes.values()))
    for ending, names in (("merged", _MERGED), ("ended otherwise", _ENDED), ("dropped", ("dropped",))):
        if (told := sum(sums.get(name, 0) for name in names)) != endings[ending]:
            yield f"{told} {' or '.join(names)}, and the ledger has {endings[ending]}"
    if without := sum(epoch["without_letter"] for epoch in epochs):
        yield f"{without} dead or held without a letter"
    for epoch in epochs:
        counted = sum(epoch["outcomes"].values()) + sum(1 for _ in _missing(epoch)) + (epoch["queued"] or 0)
        if counted != epoch["sent"] or epoch["queued"]:
            yield f"{epoch['epoch']}: {epoch['sent']} sent, {counted} counted, {epoch['queued']} of them queued"


def _ending(told: set[str]) -> str:
    """Each event once: what happened to a row says more than a letter, and a drop that was told too early says nothing."""
    if told & set(_MERGED):
        return "merged"
    return "ended otherwise" if told - {"dropped"} else "dropped"


def _named(keys: set[Key]) -> str:
    names = ", ".join(f"{epoch} {seq}" for epoch, seq in sorted(keys)[:_NAMED])
    return f"{len(keys)} events ({names}{', ...' if len(keys) > _NAMED else ''}) are"
