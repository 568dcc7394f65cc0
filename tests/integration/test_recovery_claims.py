"""A record is resumed by one at a time, and only as long as its claim lasts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest

from penstock_worker.errors import ConfigurationError
from penstock_worker.store.recovery import Claim, ClaimLost, claim, get_recovery, release, renew, resolve, restore
from tests.recovering import SESSION, Ward, minutes
from tests.replaying import VERSION, event


@pytest.fixture
def ward(database_url: str, valkey_url: str) -> Iterator[Ward]:
    ward = Ward(database_url, valkey_url)
    yield ward
    ward.close()


@pytest.fixture
def found(ward: Ward) -> int:
    """An incomplete session."""
    ward.session("s1")
    ward.scan(minutes(31))
    return ward.open()[0].id


def take(ward: Ward, found: int, by: str, after_s: float = 0) -> Claim | None:
    return claim(ward.connection, found, by=by, for_s=300, now=ward.start + timedelta(seconds=after_s))


def test_of_many_at_once_one_gets_it(ward: Ward, found: int) -> None:
    start, taken = threading.Barrier(8), []

    def run(name: str) -> None:
        with psycopg.connect(ward.settings.database, autocommit=True) as connection:
            start.wait(60)
            taken.append((name, claim(connection, found, by=name, for_s=300)))

    threads = [threading.Thread(target=run, args=[f"service {number}"]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    winners = [name for name, won in taken if won]
    assert len(taken) == 8
    assert [get_recovery(ward.connection, found).claimed_by] == winners


def test_it_ends_with_its_time_unless_it_is_renewed(ward: Ward, found: int) -> None:
    first = take(ward, found, "first")
    assert first
    assert take(ward, found, "second", 299) is None
    renewed = renew(ward.connection, found, first.token, for_s=300, now=ward.start + timedelta(seconds=299))
    assert renewed.until == ward.start + timedelta(seconds=599)
    assert take(ward, found, "second", 598) is None
    assert take(ward, found, "second", 599)
    with pytest.raises(ClaimLost, match="second's until"):
        renew(ward.connection, found, first.token, for_s=300)
    with pytest.raises(ClaimLost):
        resolve(ward.connection, found, first.token)


def test_one_that_nobody_took_since_is_still_its_holders(ward: Ward, found: int) -> None:
    first = take(ward, found, "first")
    assert first
    assert renew(ward.connection, found, first.token, for_s=300, now=ward.start + timedelta(seconds=999))


def test_one_is_given_back(ward: Ward, found: int) -> None:
    first = take(ward, found, "first")
    assert first
    with pytest.raises(ClaimLost):
        release(ward.connection, found, uuid4())
    assert release(ward.connection, found, first.token).claimed_by is None
    assert take(ward, found, "second")


def test_who_resolves_needs_the_claim_or_force(ward: Ward, found: int) -> None:
    first = take(ward, found, "first")
    assert first
    with pytest.raises(ClaimLost, match="first's until"):
        resolve(ward.connection, found, uuid4())
    ended = resolve(ward.connection, found, first.token, outcome="resumed")
    assert (ended.outcome, ended.ended_by) == ("resumed", "first")
    assert resolve(ward.connection, found, None, outcome="late").outcome == "resumed", "the first one's word counts"
    assert take(ward, found, "second", 10_000) is None
    with pytest.raises(ClaimLost, match="has ended: resumed"):
        renew(ward.connection, found, first.token, for_s=300)


def test_what_ended_by_itself_is_no_error_to_its_holder(ward: Ward, found: int) -> None:
    first = take(ward, found, "first")
    assert first
    ward.session("s1", "completed", VERSION + 1)
    ward.scan(minutes(32))
    assert resolve(ward.connection, found, first.token, outcome="resumed").outcome == "completed"


def test_nothing_can_be_done_with_one_that_is_not_there(ward: Ward) -> None:
    for act in (
        lambda: claim(ward.connection, 4711, by="me", for_s=1),
        lambda: renew(ward.connection, 4711, uuid4(), for_s=1),
        lambda: resolve(ward.connection, 4711, None),
        lambda: release(ward.connection, 4711, None),
    ):
        with pytest.raises(ConfigurationError, match="no recovery 4711"):
            act()


def test_a_session_is_restored_as_readers_see_it(ward: Ward) -> None:
    ward.session("s1")
    for name in ("t2", "t1", "t3"):
        ward.task(name, "s1")
    ward.office.write(event("translation.task", {"task_id": "t3"}, VERSION + 1, "delete"))
    with restore(ward.connection, ward.registry, SESSION, ["s1"]) as restored:
        # What comes meanwhile is not of this moment.
        with psycopg.connect(ward.settings.database, autocommit=True) as other:
            other.execute("INSERT INTO translation.tasks (task_id, session_id, _version, _oldest) VALUES ('t4', 's1', 1, 1)")
        children = [(type, row["task_id"], row["status"]) for type, row in restored.children]
        record = restored.record
    assert children == [("translation.task", "t1", "running"), ("translation.task", "t2", "running")]
    assert {name: value for name, value in record.items() if value is not None} == {"session_id": "s1", "status": "running"}
    with (
        pytest.raises(ConfigurationError, match=r"no translation\.session nobody"),
        restore(ward.connection, ward.registry, SESSION, ["nobody"]),
    ):
        pass
