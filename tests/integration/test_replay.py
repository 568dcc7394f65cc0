"""Replaying dead letters: every reason, through the writer that ingest uses."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from penstock_schemas.wire import CONTENT_TYPE
from penstock_worker.ingest import decode, validate
from penstock_worker.ingest.message import RawMessage
from penstock_worker.letters.summary import Summary
from penstock_worker.store.letter_filter import LetterFilter
from tests.replaying import VERSION, Office, event, without

JOB = "scheduler.job"
CLOUDEVENT = {"specversion": "1.0", "id": "1", "source": "shop", "type": JOB, "time": "2023-11-14T22:13:20Z"}


@pytest.fixture
def office(database_url: str) -> Iterator[Office]:
    office = Office(database_url)
    yield office
    office.close()


def job(key: str, name: Any = None, version: int = VERSION, **data: Any) -> bytes:
    return event(JOB, {"id": key, "name": name, **data}, version)


def bad_jobs(count: int) -> list[bytes]:
    return [job(f"j{n:04d}", n) for n in range(count)]


def names(office: Office) -> list[tuple[Any, ...]]:
    return office.query("SELECT id, name FROM scheduler.jobs ORDER BY id")


def told(summary: Summary) -> tuple[int, int, dict[str, int]]:
    """Letters, how many remain, and events by outcome."""
    return summary.letters, summary.remaining, summary.outcomes


NAMED = {"data": {"name": "patched"}}


# -- each reason ---------------------------------------------------------------------------------------------------------------


def test_invalid_data_is_patched_and_stored(office: Office) -> None:
    assert office.write(job("a", 1), job("b", "two")) == {"stored": 1, "dead": 1}

    assert told(office.replay()) == (1, 1, {"dead": 1})
    assert told(office.replay(patch=NAMED)) == (1, 0, {"stored": 1})

    assert names(office) == [("a", "patched"), ("b", "two")]
    assert (office.letters(), office.outcomes()) == ([], {"stored": 2})


def test_a_patch_that_does_not_help_leaves_the_letter_as_it_was(office: Office) -> None:
    office.write(job("a", 1))
    before = office.snapshot()

    assert told(office.replay(patch={"data": {"enabled": "perhaps"}})) == (1, 1, {"dead": 1})

    assert office.snapshot() == before


def test_an_unknown_type_is_stored_once_it_is_installed(office: Office) -> None:
    office.writer = office.open_writer(without(JOB, "scheduler.execution"))
    assert office.write(job("a", "one")) == {"held": 1}
    assert office.letters() == [("held", "unknown_type")]

    assert told(office.replay()) == (1, 1, {"held": 1})
    assert told(office.replay(writer=office.open_writer())) == (1, 0, {"stored": 1})

    assert names(office) == [("a", "one")]
    assert office.outcomes() == {"stored": 1}


def test_a_missing_column_is_there_after_a_migration(office: Office) -> None:
    office.query("ALTER TABLE scheduler.jobs RENAME name TO title")
    assert office.write(job("a", "one"), job("b", "two")) == {"held": 2}
    assert told(office.replay()) == (2, 2, {"held": 2})

    office.query("ALTER TABLE scheduler.jobs RENAME title TO name")

    assert told(office.replay()) == (2, 0, {"stored": 2})
    assert names(office) == [("a", "one"), ("b", "two")]


def test_a_clock_ahead_is_right_later(office: Office) -> None:
    (now,) = office.query("SELECT (extract(epoch FROM now()) * 1000000)::bigint")[0]
    assert office.write(job("a", "one", now + 3_600_000_000)) == {"held": 1}
    assert told(office.replay()) == (1, 1, {"held": 1})

    later = office.open_writer(clock_ahead_limit_s=4_000)

    assert told(office.replay(writer=later)) == (1, 0, {"stored": 1})


def test_above_the_rate_letters_are_held_below_it_they_are_dead(office: Office) -> None:
    office.writer = office.open_writer(dead_letter_rate_per_minute=5)
    assert office.write(*bad_jobs(10)) == {"held": 10}
    assert told(office.replay()) == (10, 10, {"held": 10})
    assert office.outcomes() == {"held": 10}

    office.query("UPDATE penstock.dead_letters SET at = at - interval '2 minutes'")

    assert told(office.replay()) == (10, 10, {"dead": 10})
    assert office.letters() == [("dead", "invalid")] * 10
    assert office.outcomes() == {"dead": 10}


def test_a_nul_is_patched_away(office: Office) -> None:
    assert office.write(job("a", "n\0l")) == {"dead": 1}
    assert office.letters() == [("dead", "nul_character")]

    assert told(office.replay(patch=NAMED)) == (1, 0, {"stored": 1})


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (RawMessage(b"{", CONTENT_TYPE, {}), "not_json"),
        (RawMessage(b"\xff\x00", CONTENT_TYPE, {}), "not_json"),
        (RawMessage(b"no wrapping of kombu's"), "not_a_message"),
    ],
)
def test_what_is_no_json_stays_dead_whatever_is_patched(office: Office, raw: RawMessage, reason: str) -> None:
    assert office.writer.write([raw]).outcomes == {"dead": 1}
    before = office.snapshot()

    assert told(office.replay()) == (1, 1, {"dead": 1})
    assert told(office.replay(patch={"v": 1})) == (1, 1, {"dead": 1})

    assert office.letters() == [("dead", reason)]
    assert office.snapshot() == before


def test_an_event_that_is_no_json_stays_dead(office: Office) -> None:
    assert office.write(job("a", "one"), b'{"type": "scheduler.job", "data": nonsense}') == {"stored": 1, "dead": 1}

    summary = office.replay(patch=NAMED, shown=1)

    assert told(summary) == (1, 1, {"dead": 1})
    assert "cannot be patched" in str(summary.endings[0].detail)


# -- whole messages ------------------------------------------------------------------------------------------------------------


def test_an_envelope_of_a_later_version_waits_for_its_worker(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    message = office.message(job("a", "one"), job("b", 2), job("c", "three"), v=2)
    assert office.writer.write([message]).outcomes == {"held": 3}
    assert office.outcomes() == {"held": 3}
    assert told(office.replay()) == (1, 1, {"held": 3})

    monkeypatch.setattr(decode, "VERSION", 2)
    monkeypatch.setitem(validate._HEAD, "v", int)

    assert told(office.replay(writer=office.open_writer())) == (1, 1, {"stored": 2, "dead": 1})
    assert names(office) == [("a", "one"), ("c", "three")]
    assert office.letters() == [("dead", "invalid")]  # the one event that was wrong has a letter of its own now
    assert office.outcomes() == {"stored": 2, "dead": 1}
    assert told(office.replay(patch=NAMED)) == (1, 0, {"stored": 1})
    assert office.outcomes() == {"stored": 3}


def test_a_wrong_envelope_is_patched(office: Office) -> None:
    raw = office.message(job("a", "one"), job("b", "two"), producer=7)
    assert office.writer.write([raw]).outcomes == {"dead": 2}

    assert told(office.replay(patch={"producer": "office"})) == (1, 0, {"stored": 2})
    assert office.outcomes() == {"stored": 2}


def test_a_message_from_redis_keeps_its_content_type(office: Office) -> None:
    cloudevent = json.dumps({**CLOUDEVENT, "time": None, "data": {"id": "a", "name": "one"}}).encode()
    wrapper = {
        "body": base64.b64encode(cloudevent).decode(),
        "content-type": "application/cloudevents+json",
        "headers": {},
        "properties": {"body_encoding": "base64"},
    }
    assert office.writer.write([RawMessage(json.dumps(wrapper).encode())]).outcomes == {"dead": 1}

    assert told(office.replay(patch={"time": CLOUDEVENT["time"]})) == (1, 0, {"stored": 1})
    assert names(office) == [("a", "one")]


def test_letters_of_the_first_release_have_no_headers(office: Office) -> None:
    """Its workers go on writing while the migration runs."""
    office.writer.write([office.message(job("a", "one"), v=2)])
    office.query("UPDATE penstock.dead_letters SET content_type = NULL, headers = NULL, events = NULL")

    assert told(office.replay(patch={"v": 1})) == (1, 0, {"stored": 1})
    assert office.outcomes() == {"stored": 1}


def test_events_of_foreign_producers_have_letters_of_their_own(office: Office) -> None:
    """One that does not validate, and one whose table did not fit."""
    for number, name in enumerate([1, "two"]):
        data = {**CLOUDEVENT, "id": str(number), "data": {"id": f"j{number}", "name": name}}
        office.query("ALTER TABLE scheduler.jobs RENAME name TO title")
        office.writer.write([RawMessage(json.dumps(data).encode(), "application/cloudevents+json", {})])
        office.query("ALTER TABLE scheduler.jobs RENAME title TO name")
    assert sorted(office.letters()) == [("dead", "invalid"), ("held", "table_does_not_fit")]

    assert told(office.replay(LetterFilter(state="held"))) == (1, 0, {"stored": 1})
    assert told(office.replay(patch=NAMED)) == (1, 0, {"stored": 1})
    assert names(office) == [("j0", "patched"), ("j1", "two")]


# -- in what company -----------------------------------------------------------------------------------------------------------


def test_a_newer_event_stays(office: Office) -> None:
    office.write(job("a", 1))
    office.write(job("a", "newer", VERSION + 1))

    assert told(office.replay(patch=NAMED)) == (1, 0, {"superseded": 1})
    assert names(office) == [("a", "newer")]
    assert office.letters() == []


def test_a_letter_whose_event_came_again_and_was_stored_is_replayed_to_no_effect(office: Office) -> None:
    office.writer = office.open_writer(without(JOB, "scheduler.execution"))
    message = office.message(job("a", "one"))
    office.writer.write([message])
    full = office.open_writer()
    full.write([message])

    assert told(office.replay(writer=full)) == (1, 0, {"stored": 1})
    assert office.outcomes() == {"stored": 1}


def test_a_bad_letter_harms_no_neighbour(office: Office) -> None:
    office.query("ALTER TABLE scheduler.jobs RENAME name TO title")
    office.write(*(job(f"j{n}", "x" * (9 if n != 7 else 10)) for n in range(20)))
    office.query("ALTER TABLE scheduler.jobs RENAME title TO name")
    office.query("ALTER TABLE scheduler.jobs ADD CONSTRAINT short CHECK (length(name) < 10)")

    assert told(office.replay()) == (20, 1, {"stored": 19, "held": 1})
    assert office.query("SELECT state, reason, constraint_name FROM penstock.dead_letters") == [("held", "constraint", "short")]
    assert office.outcomes() == {"stored": 19, "held": 1}


def test_a_bug_that_one_letter_meets_holds_that_letter_only(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    office.write(*bad_jobs(9))
    read = decode.read_event

    def read_with_a_bug(piece: bytes, *args: Any) -> None:
        if b"j0004" in piece:
            raise KeyError("as told")
        read(piece, *args)

    monkeypatch.setattr("penstock_worker.letters.reading.read_event", read_with_a_bug)

    assert told(office.replay()) == (9, 9, {"dead": 8, "held": 1})
    assert office.letters()[4] == ("held", "unknown_error")
    assert office.query("SELECT DISTINCT type, op, version FROM penstock.dead_letters") == [(JOB, "upsert", VERSION)]


def test_pages_and_limits(office: Office) -> None:
    office.write(*bad_jobs(25))
    pages: list[int] = []

    summary = office.replay(patch=NAMED, limit=22, page_letters=10, tell=pages.append)

    assert (told(summary), pages) == ((22, 0, {"stored": 22}), [10, 10, 2])
    assert (len(names(office)), len(office.letters())) == (22, 3)
    assert office.outcomes() == {"stored": 22, "dead": 3}


def test_a_letter_that_somebody_else_has_in_hand_is_left(office: Office) -> None:
    office.write(*bad_jobs(3))
    with office.open_writer().database.connection() as other:
        (locked,) = other.execute("SELECT id FROM penstock.dead_letters WHERE seq = 1 FOR UPDATE").fetchone() or (None,)
        with other.transaction():
            other.execute("SELECT FROM penstock.dead_letters WHERE id = %s FOR UPDATE", [locked])
            summary = office.replay(patch=NAMED)

    assert told(summary) == (2, 0, {"stored": 2})
    assert summary.busy == [locked]
    assert office.letters() == [("dead", "invalid")]


def test_two_replays_at_once_share_the_work(office: Office) -> None:
    office.writer = office.open_writer(dead_letter_rate_per_minute=10_000)
    office.write(*bad_jobs(300))
    summaries: list[Summary] = []
    start = threading.Barrier(2)

    def replay() -> None:
        writer = office.open_writer()
        start.wait(30)
        summaries.append(office.replay(writer=writer, patch=NAMED, page_letters=7))

    threads = [threading.Thread(target=replay) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)

    assert sum(summary.letters for summary in summaries) == 300
    assert (office.letters(), office.outcomes()) == ([], {"stored": 300})
    assert office.query("SELECT sum(upper(seqs) - lower(seqs)) FROM penstock.ledger WHERE outcome = 'stored'") == [(300,)]


def test_a_rehearsal_tells_all_and_changes_nothing(office: Office) -> None:
    """Byte for byte: what is compared is every row of every table, and where it lies."""
    office.write(job("a", "old"), job("b", 1), job("c", 2), job("a", 3, VERSION + 1))
    office.write(b'{"type": "scheduler.job"}')
    before = office.snapshot()

    summary = office.replay(is_rehearsal=True, patch=NAMED, shown=2)

    assert office.snapshot() == before
    assert told(summary) == (4, 1, {"stored": 3, "dead": 1})
    groups = [(group.letters, group.remaining, group.outcomes) for group in summary.groups.values()]
    assert sorted(groups, key=str) == [(1, 1, {"dead": 1}), (3, 0, {"stored": 3})]
    assert _changes(summary.rows) == [("b", None, "patched"), ("c", None, "patched")]
    assert _changes(office.replay(LetterFilter(ids=(_id_of(office, 3),)), is_rehearsal=True, patch=NAMED, shown=9).rows) == [
        ("a", "old", "patched")
    ]


def _changes(rows: Sequence[Any]) -> list[tuple[Any, ...]]:
    return [(row.key[0], row.before and row.before["name"], row.after["name"]) for row in rows]


def _id_of(office: Office, seq: int) -> Any:
    return office.query("SELECT id FROM penstock.dead_letters WHERE seq = %s", seq)[0][0]


@pytest.mark.parametrize(
    ("meant", "seqs"),
    [
        (LetterFilter(state="held"), [1]),
        (LetterFilter(type=JOB), [0, 2]),
        (LetterFilter(reason="nul_character"), [2]),
        (LetterFilter(producer="office", state="dead"), [0, 2]),
        (LetterFilter(producer="nobody"), []),
        (LetterFilter(), [0, 1, 2]),
    ],
)
def test_filters(office: Office, meant: LetterFilter, seqs: list[int]) -> None:
    office.write(job("a", 1), event("who.knows", {}), job("b", "n\0"))
    found = office.connection.execute(
        b"SELECT seq FROM penstock.dead_letters WHERE " + meant.condition.as_bytes(office.connection) + b" ORDER BY seq"
    )
    assert [seq for (seq,) in found] == seqs


def test_a_fingerprint_is_named_by_its_mark_or_in_full(office: Office) -> None:
    office.write(job("a", 1), job("b", "n\0"))
    full, mark = office.query("SELECT fingerprint, left(md5(fingerprint), 10) FROM penstock.dead_letters WHERE seq = 1")[0]

    for given in (full, mark):
        assert told(office.replay(LetterFilter(fingerprint=given), is_rehearsal=True)) == (1, 1, {"dead": 1})


def test_what_is_written_while_it_runs_is_not_lost(office: Office) -> None:
    """A replay and a worker at work on the same rows."""
    office.writer = office.open_writer(dead_letter_rate_per_minute=10_000)
    office.write(*bad_jobs(100))
    worker = office.open_writer()
    messages = [office.message(*(job(f"j{n:04d}", "newer", VERSION + 1) for n in range(100))) for _ in range(10)]
    thread = threading.Thread(target=lambda: [worker.write([message]) for message in messages])
    thread.start()
    summary = office.replay(patch=NAMED, page_letters=9)
    thread.join(120)

    assert (summary.letters, summary.remaining) == (100, 0)
    assert {name for _, name in names(office)} == {"newer"}
    assert sum(office.outcomes().values()) == 1_100
