"""`penstock audit` compared with what the harness of `make chaos` knows: it names what does not agree, and nothing else."""

from __future__ import annotations

from typing import Any

from tests.chaos.audit import compare
from tests.chaos.checker import Key
from tests.chaos.log import Published

EPOCH = "0199a000-0000-7a00-9000-00000000000a"
OUTCOMES: dict[Key, set[str]] = {
    (EPOCH, 0): {"stored"},
    (EPOCH, 1): {"stored", "superseded"},
    (EPOCH, 2): {"dead"},
    (EPOCH, 3): {"dropped"},
    (EPOCH, 5): {"stored", "held", "dropped"},
}
#: In the broker when it lost its data.
WIPED: set[Key] = {(EPOCH, 4)}


def published(**given: Any) -> list[Published]:
    """Six events; number 4 is gone."""
    return [Published({"epoch": EPOCH, "seq": seq}, "w1", 0.0, True, False, **given) for seq in range(6)]


def report(**given: Any) -> dict[str, Any]:
    epoch = {
        "epoch": EPOCH,
        "sent": 6,
        "outcomes": {"stored": 3, "dead": 1, "dropped": 1},
        "gaps": [{"first": 4, "last": 4, "state": "missing"}],
        "queued": 0,
        "without_letter": 0,
    }
    return {"producers": [{"producer": "w1", "epochs": [epoch | given]}]}


def test_both_say_the_same() -> None:
    audited = compare(report(), published(), OUTCOMES, WIPED)
    assert audited.findings == []
    assert audited.line == "6 sent, 1 dead, 1 dropped, 3 stored, 1 missing, 0 unexplained"


def test_a_missing_event_that_nobody_wiped() -> None:
    audited = compare(report(), published(), OUTCOMES, set())
    assert audited.findings == [f"1 events ({EPOCH} 4) are missing, and nobody has wiped them"]
    assert audited.line.endswith("1 missing, 1 unexplained")


def test_a_journal_sends_again_what_was_wiped() -> None:
    journaled = [Published(one.event, one.writer, one.at, is_accepted=True) for one in published()]
    assert compare(report(), journaled, OUTCOMES, WIPED).findings == [
        f"1 events ({EPOCH} 4) are missing, and nobody has wiped them"
    ]


def test_a_number_that_was_never_given() -> None:
    extra = report(sent=8, gaps=[{"first": 4, "last": 4}, {"first": 6, "last": 7}])
    assert compare(extra, published(), OUTCOMES, WIPED).findings == [
        f"2 events ({EPOCH} 6, {EPOCH} 7) are missing, and nobody has wiped them"
    ]


def test_an_event_that_is_gone_and_not_missing() -> None:
    overlooked = report(gaps=[], outcomes={"stored": 4, "dead": 1, "dropped": 1})
    assert compare(overlooked, published(), OUTCOMES, WIPED).findings == [
        f"1 events ({EPOCH} 4) are without an outcome, and not missing",
        "4 stored or superseded, and the ledger has 3",
    ]


def test_an_event_that_the_ledger_has_and_is_missing() -> None:
    wrong = report(gaps=[{"first": 4, "last": 5}], outcomes={"stored": 2, "dead": 1, "dropped": 1})
    assert compare(wrong, published(), OUTCOMES, {*WIPED, (EPOCH, 5)}).findings == [
        f"1 events ({EPOCH} 5) are missing, and the ledger has them",
        "2 stored or superseded, and the ledger has 3",
    ]


def test_what_waits_or_has_no_letter() -> None:
    found = compare(report(queued=1, without_letter=1), published(), OUTCOMES, WIPED).findings
    assert found == ["1 dead or held without a letter", f"{EPOCH}: 6 sent, 7 counted, 1 of them queued"]
