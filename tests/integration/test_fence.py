"""Events of erased people are refused, in whatever form and order they come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from penstock_worker.store.privacy.fences import set_fences
from tests.replaying import VERSION, Office, event

#: Above every version that the tests write but for those of a new life.
ALLOWANCE_US = 300_000_000


@pytest.fixture
def office(database_url: str) -> Iterator[Office]:
    office = Office(database_url)
    yield office
    office.close()


def session(key: str, user: str | None = "ada", version: int = VERSION, **data: Any) -> bytes:
    named = {} if user is None else {"user_id": user}
    return event("translation.session", {"session_id": key, **named, **data}, version)


def task(key: str, parent: str, version: int = VERSION, **data: Any) -> bytes:
    return event("translation.task", {"task_id": key, "session_id": parent, **data}, version)


def test_what_an_erased_person_left_behind_is_refused(office):
    fence = set_fences(office.connection, "ada", ALLOWANCE_US)

    assert office.write(session("s1"), session("s2", "bob")) == {"fenced": 1, "stored": 1}

    rows = office.query("SELECT session_id, user_id, _version, _deleted_version FROM translation.sessions ORDER BY 1")
    assert rows == [("s1", None, None, fence), ("s2", "bob", VERSION, None)]
    assert office.outcomes() == {"fenced": 1, "stored": 1}


def test_tail(office):
    set_fences(office.connection, "ada", ALLOWANCE_US)
    assert office.write(session("s1"), task("t1", "s1")) == {"fenced": 2}
    assert office.write(task("t2", "s1")) == {"fenced": 1}
    assert office.write(session("s1", None, status="running")) == {"superseded": 1}
    print(office.query("SELECT * FROM translation.tasks"))
    print(office.query("SELECT * FROM penstock.erased_parents"))
    assert office.write(task("t3", "s3"), session("s3")) == {"fenced": 2}
