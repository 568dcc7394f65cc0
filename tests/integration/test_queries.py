"""What the reading commands ask, on rows put there by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from penstock_schemas import load_registry
from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import Settings
from penstock_worker.store import queries
from penstock_worker.store.letter_filter import LetterFilter

EPOCH, OTHER = UUID(int=1), UUID(int=2)
LETTER = """
    INSERT INTO penstock.dead_letters (id, state, reason, detail, fingerprint, type, producer, payload, at)
    VALUES (%s, %s, %s, %s, %s, 'translation.task', 'web', 'bytes', %s)
"""


@pytest.fixture
def settings(database_url: str) -> Settings:
    return Settings(database_url=database_url, broker_url="redis://localhost:1/0")


@pytest.fixture
def database(database_url: str):
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def test_hidden_rows_are_not_counted(database, settings):
    """Placeholders, tombstones, and children older than their parent's delete."""
    database.execute("INSERT INTO translation.sessions (session_id, _version, _event) VALUES ('there', 1, gen_random_uuid())")
    database.execute("INSERT INTO translation.sessions (session_id) VALUES ('placeholder')")
    database.execute("INSERT INTO translation.sessions (session_id, _deleted_version) VALUES ('deleted', 5)")
    task = "INSERT INTO translation.tasks (task_id, session_id, _version, _oldest) VALUES (%s, %s, %s, %s)"
    for row in [("a", "there", 1, 1), ("b", "placeholder", 1, 1), ("c", "deleted", 9, 5), ("d", "deleted", 9, 6)]:
        database.execute(task, row)

    with queries.open_reader(settings) as reader:
        rows = queries.count_rows(reader, load_registry())

    assert {name: number for name, number in rows.items() if number} == {"translation.session": 1, "translation.task": 3}
    assert "guardian.metric" in rows


def test_events_told_twice_count_once(database, settings):
    ledger = "INSERT INTO penstock.ledger (epoch, seqs, outcome) VALUES (%s, %s, %s)"
    for row in [
        (EPOCH, "[0,10)", "stored"),
        (EPOCH, "[5,12)", "stored"),
        (EPOCH, "[5,7)", "superseded"),
        (EPOCH, "[12,13)", "dead"),
        (OTHER, "[0,3)", "held"),
    ]:
        database.execute(ledger, row)
    producer = "INSERT INTO penstock.producers (epoch, producer, high_water, is_closed, last_seen) VALUES (%s, %s, %s, %s, %s)"
    database.execute(producer, (EPOCH, "web", 13, True, datetime(2026, 11, 1, tzinfo=UTC)))
    database.execute(producer, (OTHER, "batch", 3, False, datetime(2026, 11, 2, tzinfo=UTC)))

    with queries.open_reader(settings) as reader:
        outcomes = queries.count_outcomes(reader)
        web = queries.run_progress(reader, ["web"])
        nobody = queries.run_progress(reader, ["nobody"])
        producers = queries.list_producers(reader)

    assert outcomes == {"stored": 12, "dead": 1, "held": 3}
    assert web == queries.RunProgress(stored=12, dead_lettered=1, ended=13)
    assert nobody == queries.RunProgress(stored=0, dead_lettered=0, ended=0)
    assert [(seen.producer, seen.epoch, seen.high_water, seen.is_closed) for seen in producers] == [
        ("batch", OTHER, 3, False),
        ("web", EPOCH, 13, True),
    ]


def test_dead_letters_by_fingerprint(database, settings):
    for number, (state, reason) in enumerate([("dead", "schema"), ("dead", "schema"), ("held", "unknown_type")]):
        at = datetime(2026, 11, 1, number, tzinfo=UTC)
        database.execute(LETTER, (uuid4(), state, reason, f"detail {number}", f"print of {reason}", at))

    with queries.open_reader(settings) as reader:
        counts = queries.count_letters(reader)
        groups = queries.list_groups(reader, LetterFilter(), 10)
        held = queries.list_groups(reader, LetterFilter(state="held"), 10)
        newest = queries.list_letters(reader, LetterFilter(), 1)
        dead = queries.list_letters(reader, LetterFilter(state="dead"), 10)

    assert counts == {"dead": 2, "held": 1}
    assert [(group.fingerprint, group.letters, group.detail) for group in groups] == [
        ("print of schema", 2, "detail 1"),
        ("print of unknown_type", 1, "detail 2"),
    ]
    assert [group.reason for group in held] == ["unknown_type"]
    assert [(letter["reason"], letter["payload_bytes"]) for letter in newest] == [("unknown_type", 5)]
    assert [letter["detail"] for letter in dead] == ["detail 1", "detail 0"]


def test_the_largest_groups_come_first(database, settings):
    for number, reason in enumerate("abbccc"):
        database.execute(LETTER, (uuid4(), "dead", reason, "", reason, datetime(2026, 11, 1, number, tzinfo=UTC)))

    with queries.open_reader(settings) as reader:
        assert [group.reason for group in queries.list_groups(reader, LetterFilter(), 2)] == ["c", "b"]


class Noting(psycopg.Cursor):
    """Notes what it executes."""

    noted: ClassVar[list[Any]] = []

    def execute(self, query, *args, **options):
        self.noted.append(query)
        return super().execute(query, *args, **options)


def nodes(plan):
    """Every node of a plan."""
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def test_grouping_keeps_no_single_letters(database, settings):
    """20,000 letters of two groups, with long details: nothing sorts or collects more than the groups."""
    database.execute(
        "INSERT INTO penstock.dead_letters (id, state, reason, detail, fingerprint, payload, at)"
        " SELECT gen_random_uuid(), 'dead', 'schema', repeat('x', 1000), 'f' || n % 2, '', now() - make_interval(secs => n)"
        " FROM generate_series(1, 20000) AS n"
    )
    database.execute("ANALYZE penstock.dead_letters")

    with queries.open_reader(settings) as reader:
        reader.cursor_factory = Noting
        groups = queries.list_groups(reader, LetterFilter(), 10)
        explain = sql.SQL("EXPLAIN (ANALYZE, VERBOSE, FORMAT JSON) {}").format(Noting.noted[-1])
        (plan,) = reader.execute(explain).fetchone()

    assert [(group.fingerprint, group.letters) for group in groups] == [("f0", 10_000), ("f1", 10_000)]
    for node in nodes(plan[0]["Plan"]):
        if "Sort" in node["Node Type"] or "Aggregate" in node["Node Type"]:
            assert node["Actual Rows"] <= 4
            assert not any("detail" in part for part in node["Output"] if node["Node Type"] == "Aggregate")
            assert node.get("Peak Memory Usage", 0) + node.get("Sort Space Used", 0) < 1_000


def test_a_reader_cannot_write(settings):
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), queries.open_reader(settings) as reader:
        reader.execute("DELETE FROM penstock.ledger")


def test_a_database_that_is_not_migrated_is_told_in_one_line(empty_database_url):
    settings = Settings(database_url=empty_database_url)

    with pytest.raises(ConfigurationError, match="penstock migrate up") as caught, queries.open_reader(settings) as reader:
        queries.count_outcomes(reader)

    assert "\n" not in str(caught.value)


def test_a_database_that_is_away_is_told_in_one_line():
    settings = Settings(database_url="postgresql://nobody@localhost:1/none")

    with pytest.raises(ConfigurationError, match="PENSTOCK_DATABASE_URL") as caught, queries.open_reader(settings):
        pass

    assert "\n" not in str(caught.value)
