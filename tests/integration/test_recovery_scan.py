"""Which records are found incomplete, how they are offered, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.recovering import SESSION, TASK, Ward, minutes


@pytest.fixture
def ward(database_url: str, valkey_url: str) -> Iterator[Ward]:
    ward = Ward(database_url, valkey_url)
    yield ward
    ward.close()


def test_a_session_is_found_once_it_was_silent_for_long(ward: Ward) -> None:
    ward.session("s1")
    ward.task("t1", "s1")
    assert ward.scan(minutes(29)) == {"found": 0, "offered": 0, "pages": 2}
    assert ward.scan(minutes(31)) == {"found": 1, "offered": 1, "pages": 2}
    assert ward.scan(minutes(31.5)) == {"found": 0, "offered": 0, "pages": 2}
    assert ward.found() == ["s1"], "its task is restored with it"
    assert ward.scan(minutes(60 * 25)) == {
        "found": 0,
        "offered": 0,
        "pages": 2,
        "ended": {"interrupted": 1},
        "interrupted_below": 1,
    }
    assert (ward.states(), ward.states(TASK), ward.found()) == ({"s1": "interrupted"}, {"t1": "interrupted"}, [])
    assert ward.scan(minutes(60 * 27))["found"] == 0
