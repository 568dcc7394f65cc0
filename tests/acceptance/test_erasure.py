"""Promise 8 with real processes: an old backlog that is sent again after an erasure brings nothing back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from penstock_producers import Producer
from penstock_schemas import Record
from penstock_schemas.records.guardian import GuardianAccessLog, GuardianMemory
from penstock_schemas.records.translation import TranslationSession, TranslationTask
from tests.acceptance.witness import Witness, until
from tests.commands import penstock_here
from tests.servers.celery_worker import WorkerProcess

pytestmark = pytest.mark.acceptance

LONG_S = 120.0
PEOPLE = 10
#: The one who is erased.
PERSON = "user-3"


def backlog() -> list[Record]:
    """What services have said of ten people: sessions with tasks, memories, and who looked at them."""
    old, said = datetime.now(UTC) - timedelta(hours=1), []
    for number in range(PEOPLE):
        user = f"user-{number}"
        said += [
            TranslationTask(task_id=f"t{number}-{place}", session_id=f"s{number}", source_text="secret") for place in range(10)
        ]
        said.append(TranslationSession(session_id=f"s{number}", user_id=user, status="running", started_at=old))
        said += [GuardianMemory(memory_id=f"m{number}-{place}", user_id=user, type="secret") for place in range(10)]
        said.append(GuardianAccessLog(timestamp=old, user_id=user, access_type="read"))
    return said


def publish(broker_url: str, records: list[Record], **options: Any) -> None:
    with Producer(broker_url, name="services", **options) as producer:
        for record in records:
            producer.publish(record)
        assert producer.flush(LONG_S)


def left(witness: Witness) -> dict[str, int]:
    """Rows with content, of the person and of the others."""
    queries = {
        "sessions": "SELECT count(*) FROM translation.sessions WHERE user_id IS NOT NULL",
        "tasks": "SELECT count(*) FROM translation.tasks WHERE source_text IS NOT NULL",
        "memories": "SELECT count(*) FROM guardian.memories WHERE type IS NOT NULL",
        "of the person": "SELECT (SELECT count(*) FROM translation.sessions WHERE user_id = 'user-3')"
        " + (SELECT count(*) FROM guardian.memories WHERE user_id = 'user-3')"
        " + (SELECT count(*) FROM translation.tasks WHERE session_id = 's3')",
    }
    return {name: int(witness.query(query)[0][0]) for name, query in queries.items()}


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)  # what refuses is the same on both
def test_an_old_backlog_brings_nothing_back(
    witness: Witness,
    broker_url: str,
    database_url: str,
    new_worker: Callable[[], WorkerProcess],
    tmp_path: Path,
) -> None:
    records = backlog()
    worker = new_worker()
    worker.start()
    publish(broker_url, records)
    until(lambda: witness.count_told() == len(records))
    assert left(witness) == {"sessions": 10, "tasks": 100, "memories": 100, "of the person": 21}

    done = penstock_here(
        "erase-person", PERSON, "--who", "Grace", "--why", "ticket 7", "--yes", PENSTOCK_DATABASE_URL=database_url
    )
    assert done.returncode == 0, done.stderr
    others = {"sessions": 9, "tasks": 90, "memories": 90, "of the person": 0}
    assert left(witness) == others

    # Everything once more, as from a producer's spool: half of it in the order in which it was said, half the other way round.
    publish(broker_url, records)
    publish(broker_url, records[::-1])
    until(lambda: witness.count_told() == 3 * len(records))
    outcomes = dict(witness.query("SELECT outcome, sum(upper(seqs) - lower(seqs))::int FROM penstock.ledger GROUP BY outcome"))
    assert outcomes["fenced"] == 2 * 21
    assert left(witness) == others
    assert witness.reasons() == {}

    with Producer(broker_url, name="journal", durability="journal", spool_folder=tmp_path / "journal") as producer:
        receipt = producer.publish(GuardianMemory(memory_id="m3-0", user_id=PERSON, type="secret"))
        assert receipt.wait(LONG_S) == "fenced"
        # Its file lets go of it: what is refused is not sent again for ever.
        until(lambda: producer.status().unreceipted == 0)
    assert left(witness) == others
