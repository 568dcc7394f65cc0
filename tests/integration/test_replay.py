"""Replaying dead letters: every reason, through the writer that ingest uses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from penstock_schemas.records.scheduler import SchedulerJob
from penstock_schemas.wire import CONTENT_TYPE
from penstock_worker.ingest.message import RawMessage
from penstock_worker.store.letter_filter import LetterFilter
from tests.replaying import ALL, VERSION, Office, event, without

JOB = "scheduler.job"


@pytest.fixture
def office(database_url: str) -> Iterator[Office]:
    office = Office(database_url)
    yield office
    office.close()


def job_names(office: Office) -> list[tuple[str, str | None]]:
    return office.query("SELECT id, name FROM scheduler.jobs ORDER BY id")  # type: ignore[return-value]


def test_invalid_data_is_patched_and_stored(office: Office) -> None:
    bad = event(JOB, {"id": "j1", "name": "one", "enabled": "perhaps", "priority": None})
    assert office.write(bad, event(JOB, {"id": "j2", "name": "two"})) == {"stored": 1, "dead": 1}

    assert office.replay().remaining == 1
    summary = office.replay(patch={"data": {"enabled": True}})

    assert (summary.letters, summary.remaining, dict(summary.outcomes)) == (1, 0, {"stored": 1})
    assert job_names(office) == [("j1", "one"), ("j2", "two")]
    assert office.letters() == []
    assert office.outcomes() == {"stored": 2}
