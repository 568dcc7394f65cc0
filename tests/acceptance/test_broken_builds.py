"""
The checker of `make chaos` sees what it is there to see: the same run is told as good with the build as it is, and names the
right column with builds that are broken on purpose.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.checker import Verdict
from tests.chaos.plan import Fault, Plan
from tests.chaos.run import STALL_S, run
from tests.chaos.site import Lent, Shape
from tests.servers.databases import PostgresServer

pytestmark = pytest.mark.acceptance

#: A child dies between the writing and the commit of its batch, and messages come in another order.
_PLAN = Plan(
    seed=7,
    broker="redis",
    rounds=(
        ((Fault(1, "child_killed", "before_commit", 0.5, 0),),),
        ((Fault(2, "messages_reordered", "", 0, 0.5),),),
    ),
)


@pytest.fixture
def find(tmp_path: Path, postgres_server: PostgresServer, database_url: str) -> Callable[..., Verdict]:
    """Carries out the plan with workers that load a broken build, and tells what the checker found."""

    def find(*modules: str, stall_s: float = STALL_S) -> Verdict:
        # Only spill writers: a journal would send again what a broken build has lost.
        shape = Shape(journal_writers=0, spill_writers=3, rate=120, workers=1, culprit_one_in=10, modules=modules)
        lent = Lent(postgres_server, database_url)
        outcome = run(_PLAN, shape, tmp_path, lambda _: None, stall_s=stall_s, lent=lent)
        assert not outcome.errors
        assert len(outcome.hits) == len(_PLAN.faults)
        return outcome.verdict

    return find


def test_the_build_as_it_is_loses_nothing(find: Callable[..., Verdict]) -> None:
    verdict = find()
    assert (verdict.lost, verdict.doubled, verdict.wrong) == ([], [], [])
    assert verdict.endings.keys() == {"merged", "dead or held"}


def test_an_ack_before_the_commit_shows_as_lost(find: Callable[..., Verdict]) -> None:
    verdict = find("tests.chaos.broken.ack_first", stall_s=5)
    assert {finding.what for finding in verdict.lost} == {"no outcome"}
    assert verdict.doubled == []


def test_a_missing_version_guard_shows_as_wrong(find: Callable[..., Verdict]) -> None:
    verdict = find("tests.chaos.broken.no_version_guard")
    assert {finding.what for finding in verdict.wrong} == {"row"}
    assert (verdict.lost, verdict.doubled) == ([], [])


def test_a_ledger_outside_of_the_transaction_shows_as_two_outcomes(find: Callable[..., Verdict]) -> None:
    verdict = find("tests.chaos.broken.ledger_apart")
    assert {finding.what for finding in verdict.doubled} == {"two outcomes"}
    assert verdict.lost == []


def test_dead_letters_outside_of_the_transaction_show_as_lost(find: Callable[..., Verdict]) -> None:
    """The ledger says that they are dead, the messages are acknowledged, and there is no letter to look at."""
    verdict = find("tests.chaos.broken.letters_apart")
    assert {finding.what for finding in verdict.lost} == {"no dead letter"}
    assert (verdict.doubled, verdict.wrong) == ([], [])
