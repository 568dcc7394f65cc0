"""`make chaos` in short: a few faults on each broker, and nothing is lost, doubled or wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.plan import BROKERS, Broker, make_plan
from tests.chaos.report import last_line
from tests.chaos.run import run
from tests.chaos.site import Lent, Shape
from tests.servers.databases import PostgresServer

pytestmark = pytest.mark.acceptance

_KINDS = ("child_killed", "producer_killed", "broker_frozen", "database_crashed", "messages_duplicated", "broker_cut")


@pytest.mark.parametrize(
    "broker", [pytest.param(broker, marks=[pytest.mark.rabbitmq] if broker == "rabbitmq" else []) for broker in BROKERS]
)
def test_nothing_is_lost_doubled_or_wrong(
    broker: Broker, tmp_path: Path, postgres_server: PostgresServer, database_url: str, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue("rabbitmq_server") if broker == "rabbitmq" else None
    lent = Lent(postgres_server, database_url, server)
    plan = make_plan(3, broker, kinds=_KINDS, each=1)
    outcome = run(plan, Shape(journal_writers=2, workers=1), tmp_path, lambda _: None, lent=lent)
    verdict = outcome.verdict
    found = [*outcome.errors, *map(str, [*verdict.lost, *verdict.doubled, *verdict.wrong]), *outcome.audited.findings]
    assert found == []
    assert " 0 missing, 0 unexplained" in outcome.audited.line
    assert last_line([outcome]) == f"{verdict.events} events, {len(_KINDS)} faults, 0 lost, 0 doubled, 0 wrong"
    assert verdict.events > 100
