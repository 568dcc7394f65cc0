"""What the writer answers: those who wait for the events of a batch, and those who ask about others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import psycopg
import pytest
from celery.utils.saferepr import saferepr

from penstock_schemas import load_registry
from penstock_schemas.answer import MAX_QUERY_RANGES, Answer, SeqRange, new_address
from penstock_schemas.records.translation import TranslationSession
from penstock_schemas.wire import CONTENT_TYPE, DroppedRange, Envelope, encode_event, new_epoch
from penstock_worker.ingest.answers import MAX_ANSWERS_CHARACTERS, AddressedAnswer, join_answers, split_answers
from penstock_worker.ingest.message import RawMessage
from penstock_worker.ingest.request import _parse
from penstock_worker.ingest.tasks import MAX_RESULT_CHARACTERS, Child
from penstock_worker.settings import Settings

VERSION = 1_700_000_000_000_000
ADDRESS, OTHER = f"penstock.answers.{1:032x}", f"penstock.answers.{2:032x}"
BAD = encode_event("translation.session", "upsert", VERSION, b"{}")
EPOCH = UUID("0199a000-0000-7a00-9000-00000000000a")


@pytest.fixture
def child(database_url: str) -> Iterator[Child]:
    # So many dead letters that none is held for being one of many.
    child = Child(Settings(database_url=database_url, dead_letter_rate_per_minute=100_000), load_registry())
    yield child
    child.writer.database.close()


@pytest.fixture
def database(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def session(name: str, version: int = VERSION) -> bytes:
    return encode_event("translation.session", "upsert", version, TranslationSession(session_id=name).to_json())


def message(seq: int, *events: bytes, reply_to: str | None = ADDRESS, epoch: UUID = EPOCH, **more: Any) -> RawMessage:
    envelope = Envelope("web", epoch, seq, events, reply_to=reply_to, **more)
    return RawMessage(envelope.body(), CONTENT_TYPE, envelope.headers())


def query(*ranges: SeqRange, reply_to: str | None = ADDRESS, epoch: UUID = EPOCH) -> RawMessage:
    return message(0, reply_to=reply_to, epoch=epoch, query=ranges)


def write(child: Child, *messages: RawMessage) -> list[tuple[str, UUID, list[tuple[str, int, int]]]]:
    """Write a batch; its answers, read as a producer reads them."""
    answers = split_answers(child.write(messages, "together").get("answers", ""))
    parsed = [(address, Answer.parse(line)) for address, line in answers]
    return [(address, answer.epoch, list(answer.outcomes)) for address, answer in parsed]


def test_without_an_address_there_is_no_answer(child):
    result = child.write([message(0, session("a"), reply_to=None), query((0, 5), reply_to=None)], "together")
    assert {name: value for name, value in result.items() if name not in ("ms", "in_blocks", "measures")} == {"stored": 1}


@pytest.mark.parametrize(
    "name", ["penstock.events", "", "penstock.answers.", "penstock.answers.XYZ", ADDRESS + "\n", ADDRESS + "0"]
)
def test_a_name_that_is_no_address_is_never_written_to(child, name):
    assert write(child, message(0, session("a"), reply_to=name), query((0, 0), reply_to=name)) == []


def test_events_are_answered_by_address_and_epoch_in_as_few_ranges_as_can_be(child):
    strangers = new_epoch()
    answers = write(
        child,
        message(0, session("a"), session("b"), dropped=[DroppedRange(90, 94, "buffer_full"), DroppedRange(95, 99, "other")]),
        message(2, session("c"), BAD),
        message(4, session("d"), reply_to=None),
        message(5, session("e"), session("a", VERSION - 1)),
        message(7, session("f"), reply_to=OTHER),
        message(0, session("g"), epoch=strangers),
    )
    assert sorted(answers, key=lambda answer: (answer[0] == OTHER, answer[1] == strangers)) == [
        (ADDRESS, EPOCH, [("stored", 0, 2), ("dead", 3, 3), ("stored", 5, 5), ("superseded", 6, 6), ("dropped", 90, 99)]),
        (ADDRESS, strangers, [("stored", 0, 0)]),
        (OTHER, EPOCH, [("stored", 7, 7)]),
    ]


def test_a_query_is_answered_from_the_ledger_and_from_its_own_batch(child):
    write(child, message(0, session("a"), session("b"), BAD))
    answers = write(child, query((1, 2), (8, 12)), message(10, session("c"), reply_to=None), query((0, 3), reply_to=OTHER))
    assert sorted(answers, key=lambda answer: answer[0] == OTHER) == [
        (ADDRESS, EPOCH, [("stored", 1, 1), ("dead", 2, 2), ("unknown", 8, 9), ("stored", 10, 10), ("unknown", 11, 12)]),
        (OTHER, EPOCH, [("stored", 0, 1), ("dead", 2, 2), ("unknown", 3, 3)]),
    ]


def test_a_query_for_an_event_that_came_twice_gets_one_outcome(child):
    write(child, message(0, session("a")))
    write(child, message(0, session("a")))
    assert write(child, query((0, 0))) == [(ADDRESS, EPOCH, [("stored", 0, 0)])]


def test_a_query_says_nothing_about_its_producer(child, database):
    """Not before its first event, and not after it; nor does the writer believe to know the producer from then on."""
    stranger = new_epoch()
    assert write(child, query((0, 0), epoch=stranger)) == [(ADDRESS, stranger, [("unknown", 0, 0)])]
    assert database.execute("SELECT * FROM penstock.producers").fetchall() == []
    write(child, message(0, session("a"), epoch=stranger))
    before = database.execute("SELECT * FROM penstock.producers").fetchall()
    assert len(before) == 1
    write(child, query((0, 0), epoch=stranger))
    assert database.execute("SELECT * FROM penstock.producers").fetchall() == before


@pytest.mark.parametrize("ranges", [[], [[5, 3]]])
def test_a_query_about_nothing_is_not_answered(child, ranges):
    assert write(child, query(*ranges)) == []


@pytest.mark.parametrize("ranges", [[[0, 0]] * (MAX_QUERY_RANGES + 1), [[-1, 0]], [[0, 2**48]], [["a", 0]], [[0]], "all", 7])
def test_a_query_that_cannot_be_is_refused(child, database, ranges):
    assert write(child, query(*[(0, 0)]), query(*ranges) if isinstance(ranges, list) else message(0, query=ranges)) == [
        (ADDRESS, EPOCH, [("unknown", 0, 0)])
    ]
    assert database.execute("SELECT state, reason FROM penstock.dead_letters").fetchall() == [("dead", "invalid_envelope")]
    assert database.execute("SELECT * FROM penstock.ledger").fetchall() == []


def test_a_query_beside_events_is_not_heard(child):
    assert write(child, message(0, session("a"), query=((5, 9),))) == [(ADDRESS, EPOCH, [("stored", 0, 0)])]


def test_answers_are_those_of_the_try_that_succeeded(child, database):
    """The first try ends with an objection to one row, the careful one finds it."""
    database.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '22023'; END $$;
        CREATE TRIGGER refusing BEFORE INSERT ON translation.sessions
        FOR EACH ROW WHEN (NEW.session_id = 'bad') EXECUTE FUNCTION refuse()
    """)
    answers = write(child, message(0, session("a"), session("bad"), session("c")), query((0, 3), reply_to=OTHER))
    parts = [("stored", 0, 0), ("dead", 1, 1), ("stored", 2, 2)]
    assert answers == [(ADDRESS, EPOCH, parts), (OTHER, EPOCH, [*parts, ("unknown", 3, 3)])]


def test_a_suspect_alone_is_answered_too(child):
    result = child.write([message(0, session("a"))], "alone")
    assert split_answers(result["answers"]) == [AddressedAnswer(ADDRESS, Answer(EPOCH, [("stored", 0, 0)]).line())]


def test_a_result_with_thousands_of_answers_is_read_in_the_main_process(child):
    """Celery brings it as a `repr` that is cut at a limit; what is cut cannot be read."""
    addresses = [new_address() for _ in range(4_000)]
    result = child.write(
        [message(seq, session(f"s{seq}"), reply_to=address) for seq, address in enumerate(addresses)], "together"
    )
    brought = _parse(saferepr(result, MAX_RESULT_CHARACTERS))
    assert brought == result
    assert [address for address, _ in split_answers(brought["answers"])] == addresses


def test_answers_that_do_not_fit_are_left_out():
    answer = AddressedAnswer(ADDRESS, Answer(EPOCH, [("stored", seq, seq) for seq in range(0, 8_000, 2)]).line())
    text = join_answers([answer] * 100)
    assert MAX_ANSWERS_CHARACTERS - len(answer.line) < len(text) + len(ADDRESS) <= MAX_ANSWERS_CHARACTERS + len(ADDRESS)
    assert set(split_answers(text)) == {answer}


def test_of_a_long_answer_the_beginning_is_told(child):
    events: Sequence[bytes] = [BAD if seq % 2 else session(f"s{seq}") for seq in range(6_000)]
    ((_, _, parts),) = write(child, message(0, *events))
    assert parts == [("dead" if seq % 2 else "stored", seq, seq) for seq in range(5_000)]
