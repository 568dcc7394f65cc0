"""What the exporter decides without a server: when it looks, how long it waits, what a message's beginning tells."""

from __future__ import annotations

import base64
import json
import threading
from typing import Any
from uuid import UUID

import pytest

from penstock_producers.transports.redis import kombu_message
from penstock_schemas.wire import QUEUE, Envelope, encode_event
from penstock_worker.exporter.asked import KEEP_S, WAIT_S, Asked
from penstock_worker.exporter.collector import Exporter
from penstock_worker.exporter.redis_broker import HEAD_BYTES, _server_figures, message_time
from penstock_worker.store import measures
from tests.producing import Clock, eventually

#: A UUIDv7 of 2023-11-14 22:13:20, and a version of a minute later.
EPOCH = UUID(int=1_700_000_000_000 << 80 | 0x7 << 76 | 0x2 << 62)
VERSION = 1_700_000_060_000_000


class Scripted:
    """A `Look` that answers when it is let, with what it was told last."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.looks, self.given_up = 0, 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def take(self) -> Any:
        self.looks += 1
        assert self.may_answer.wait(60)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def give_up(self) -> None:
        self.given_up += 1

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def look() -> Scripted:
    return Scripted()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def asked(look: Scripted, clock: Clock) -> Asked:
    return Asked("database", look, clock)


def figures(asked: Asked, clock: Clock) -> Any:
    asked.begin()
    answer = asked.wait(clock.now + 60)
    return answer.trouble or answer.figures


def test_an_answer_is_kept_for_a_while(asked: Asked, look: Scripted, clock: Clock) -> None:
    look.answers = [{"x": 1.0}, {"x": 2.0}]
    assert figures(asked, clock) == {"x": 1.0}
    clock.now += KEEP_S - 1
    assert figures(asked, clock) == {"x": 1.0}
    clock.now += 1
    assert figures(asked, clock) == {"x": 2.0}
    assert look.looks == 2


def test_what_cannot_be_asked_has_no_figures_and_a_reason_that_is_said_once(
    asked: Asked, look: Scripted, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    look.answers = [{"x": 1.0}, OSError("gone"), OSError("gone"), {"x": 2.0}]
    told = []
    for _ in range(4):
        told.append(figures(asked, clock))
        clock.now += KEEP_S
    assert told == [{"x": 1.0}, "OSError: gone", "OSError: gone", {"x": 2.0}]
    assert [record.action for record in caplog.records] == ["look_failed", "look_back"]  # type: ignore[attr-defined]


def test_who_does_not_answer_is_waited_for_no_longer_than_asked_and_once_at_a_time(
    asked: Asked, look: Scripted, clock: Clock
) -> None:
    look.answers = [{"x": 1.0}]
    look.may_answer.clear()
    for waited in range(3):
        asked.begin()
        answer = asked.wait(clock.now)
        assert answer.figures == {}
        assert answer.trouble is not None
        assert look.given_up == waited + 1
        clock.now += KEEP_S
    assert look.looks == 1
    look.may_answer.set()
    eventually(lambda: asked.answer().figures == {"x": 1.0})


def test_a_connection_that_was_cut_off_is_told_as_no_answer(asked: Asked, look: Scripted, clock: Clock) -> None:
    look.answers = [OSError("the connection was cut off")]
    look.may_answer.clear()
    asked.begin()
    clock.now += WAIT_S
    asked.wait(clock.now)
    look.may_answer.set()
    eventually(lambda: look.answers == [])
    assert asked.wait(clock.now + 60).trouble == "it has not answered within 4 s"


def test_readiness_does_not_wait(look: Scripted, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    looks = Exporter([Asked("database", look, clock)], clock)
    look.answers = [{}, {}]
    look.may_answer.clear()
    assert looks.ready().reasons == ("the database: it has not answered yet",)
    assert caplog.messages == []  # nothing is wrong so far
    look.may_answer.set()
    eventually(lambda: looks.ready().is_ok)
    look.may_answer.clear()
    clock.now += KEEP_S
    assert looks.ready().is_ok  # the look that is under way may still answer
    clock.now += WAIT_S
    assert looks.ready().reasons == ("the database: it has not answered within 4 s",)
    assert looks.live().is_ok
    look.may_answer.set()


def message(version: int = VERSION, epoch: UUID = EPOCH, data: Any = None, **head: Any) -> bytes:
    event = encode_event("scheduler.job", "upsert", version, json.dumps(data or {"id": "x"}).encode())
    return kombu_message(Envelope("web", epoch, 1, [event], **head), QUEUE)


def test_the_time_of_a_message_is_its_first_events_version() -> None:
    large = message(data={"id": "x" * 9_000, "version": 1_800_000_000_000_000})
    assert message_time(large[:HEAD_BYTES]) == VERSION / 1e6


def test_an_event_that_is_dated_back_is_no_older_than_its_process() -> None:
    assert message_time(message(version=1_000_000_000_000_000)) == 1_700_000_000


def test_kombus_own_order_of_fields_is_read_too() -> None:
    wrapped = json.loads(message())
    body = {"body": wrapped.pop("body")}
    assert message_time(json.dumps(body | wrapped).encode()) == VERSION / 1e6


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\xff\x00",
        kombu_message(Envelope("web", EPOCH, 1), QUEUE),
        message().replace(str(EPOCH).encode(), b"-" * 36),
        json.dumps({"body": base64.b64encode(b'{"events": "none"}').decode(), "headers": {"epoch": str(EPOCH)}}).encode(),
    ],
    ids=["empty", "no text", "heartbeat", "no epoch", "stranger"],
)
def test_a_message_that_does_not_tell_has_no_time(head: bytes) -> None:
    assert message_time(head) is None


def test_what_a_service_hides_of_redis_is_left_out() -> None:
    assert _server_figures({"maxmemory_policy": "allkeys-lru", "aof_enabled": 1, "aof_last_write_status": "err"}) == {
        "penstock_redis_evicts": 1,
        "penstock_redis_persists": 0,
    }


def test_very_many_letters_are_estimated() -> None:
    rows = [("dead", measures.EXACT_LETTERS + 1, 912_345.6), ("held", 7, 3.0)]
    assert measures._read_letters(rows) == {"penstock_dead_letters": {"dead": 912_346, "held": 7}}
    unknown = [("dead", measures.EXACT_LETTERS + 1, None)]
    assert measures._read_letters(unknown)["penstock_dead_letters"]["dead"] == measures.EXACT_LETTERS + 1


def test_the_oldest_of_too_many_kinds_of_letters_is_not_told() -> None:
    rows = [("dead", 1.0)] * measures.LETTER_GROUPS
    assert measures._read_oldest_letters([*rows[1:], ("dead", 5.0)]) == {"penstock_dead_letters_oldest_seconds": {"dead": 5.0}}
    assert measures._read_oldest_letters([*rows, ("dead", 5.0)]) == {}
