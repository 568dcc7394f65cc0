"""What each failure of the database does to the event that caused it, and to the others: nothing."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from penstock_schemas import Record
from penstock_schemas.records.guardian import GuardianMetric
from penstock_schemas.records.scheduler import SchedulerJob, SchedulerPipeline
from penstock_schemas.records.translation import TranslationSession, TranslationTask
from penstock_schemas.registry import load_registry
from penstock_schemas.wire import CONTENT_TYPE, Envelope, encode_event, new_epoch
from penstock_worker.errors import CulpritUnknown, DatabaseAway
from penstock_worker.ingest.message import RawMessage, unwrap
from penstock_worker.ingest.tasks import Child
from penstock_worker.ingest.write import Writer
from penstock_worker.settings import Settings
from penstock_worker.store import suspects
from penstock_worker.store.careful import STEP_ROWS
from penstock_worker.store.connection import Database, connect_with
from penstock_worker.store.copy_text import MAX_INDEXED_BYTES
from tests.wiretap import tapped

REGISTRY = load_registry()
#: Before the present, and the same for all events of a test run.
VERSION = 1_700_000_000_000_000


class Desk:
    """A writer, what it sends numbered, and a look at what came of it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.settings = Settings(database_url=url)
        self.pauses: list[float] = []
        self.epoch = new_epoch()
        self._seq = 0
        self._connection = psycopg.connect(url, autocommit=True)
        self.renew()

    def renew(self, **settings: Any) -> None:
        """Another writer, with other settings."""
        self.settings = self.settings.model_copy(update=settings)
        self.writer = Writer(Database(connect_with(self.settings)), REGISTRY, self.settings, sleep=self.pauses.append)

    def close(self) -> None:
        self.writer.database.close()
        self._connection.close()

    def message(self, *records: Record, version: int = VERSION) -> RawMessage:
        events = [encode_event(record.__record__.type, "upsert", version, record.to_json()) for record in records]
        envelope = Envelope("desk", self.epoch, self._seq, events)
        self._seq += len(records)
        return RawMessage(envelope.body(), CONTENT_TYPE, envelope.headers())

    def write(self, *records: Record, version: int = VERSION) -> dict[str, int]:
        """Write them in one batch of one message; events by outcome."""
        return self.writer.write([self.message(*records, version=version)]).outcomes

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        cursor = self._connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []

    def keys(self, table: str, key: str) -> list[str]:
        """Of the rows that are no placeholders."""
        return [row[0] for row in self.query(f"SELECT {key} FROM {table} WHERE _version IS NOT NULL ORDER BY 1")]

    def letters(self) -> Counter[tuple[str, str, str | None]]:
        """Dead letters by state, reason and SQLSTATE."""
        return Counter(self.query("SELECT state, reason, sqlstate FROM penstock.dead_letters"))  # type: ignore[arg-type]

    def ledger(self) -> dict[str, int]:
        return dict(self.query("SELECT outcome, sum(upper(seqs) - lower(seqs))::int FROM penstock.ledger GROUP BY outcome"))

    def raise_for(self, name: str, state: str, times: int = 10**6) -> None:
        """Let PostgreSQL raise an error where the job of this name is written; a sequence counts, which is not rolled back."""
        self.query(
            f"CREATE SEQUENCE raised; CREATE FUNCTION raise_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF nextval('raised') <= {times} THEN RAISE EXCEPTION 'as told' USING ERRCODE = '{state}'; END IF; RETURN NEW; "
            f"END $$; CREATE TRIGGER raising BEFORE INSERT ON scheduler.jobs FOR EACH ROW "
            f"WHEN (NEW.name = '{name}') EXECUTE FUNCTION raise_it()"
        )


@pytest.fixture
def desk(database_url: str) -> Iterator[Desk]:
    desk = Desk(database_url)
    yield desk
    desk.close()


@pytest.fixture
def child(desk: Desk) -> Iterator[Child]:
    child = Child(desk.settings, REGISTRY)
    yield child
    child.writer.database.close()


def counts(result: dict[str, Any]) -> dict[str, int]:
    """Events by outcome, of what a child answers."""
    return {name: count for name, count in result.items() if name not in ("in_blocks", "ms", "measures")}


def jobs(count: int, bad: int | None = None) -> list[SchedulerJob]:
    return [SchedulerJob(id=f"j{n:04d}", name="bad" if n == bad else "good") for n in range(count)]


def too_long_for_an_index() -> str:
    return os.urandom(9_000).hex()


# -- the event's fault ---------------------------------------------------------------------------------------------------------


def test_one_key_too_long_for_its_index_among_a_thousand(desk: Desk) -> None:
    """Found before PostgreSQL is asked, so that its neighbours pay nothing for it."""
    records = jobs(1_000)
    records[617] = SchedulerJob(id=too_long_for_an_index(), name="bad")
    assert desk.write(*records) == {"stored": 999, "dead": 1}
    assert desk.query("SELECT reason, detail, column_name FROM penstock.dead_letters") == [
        ("invalid", "id: 18,000 bytes, a text in a key or an index may have 2,600", "id")
    ]
    assert len(desk.keys("scheduler.jobs", "id")) == 999
    assert desk.ledger() == {"stored": 999, "dead": 1}
    assert desk.query("SELECT seq, octet_length(payload) > 18000, type, op, version, producer FROM penstock.dead_letters") == [
        (617, True, "scheduler.job", "upsert", VERSION, "desk")
    ]


def test_the_longest_key_that_is_taken_fits_its_index(desk: Desk) -> None:
    fits = random.Random(7).randbytes(MAX_INDEXED_BYTES // 2).hex()
    assert desk.write(SchedulerJob(id=fits), SchedulerJob(id=f"{fits}+")) == {"stored": 1, "dead": 1}
    assert desk.keys("scheduler.jobs", "id") == [fits]


def test_a_text_too_long_for_somebodys_own_index_is_dead_and_alone(desk: Desk) -> None:
    """No record type tells of the index, so it is PostgreSQL that refuses, while the rows are written."""
    desk.query("CREATE INDEX ON scheduler.jobs (pipeline)")
    records = jobs(1_000)
    records[617] = SchedulerJob(id="long", pipeline=too_long_for_an_index())
    assert desk.write(*records) == {"stored": 999, "dead": 1}
    assert desk.letters() == {("dead", "refused_by_database", "54000"): 1}
    assert desk.query("SELECT seq, type FROM penstock.dead_letters") == [(617, "scheduler.job")]


@pytest.mark.parametrize("state", ["22021", "22P05", "22008", "54001"])
def test_bad_data_is_dead_and_alone(desk: Desk, state: str) -> None:
    desk.raise_for("bad", state)
    assert desk.write(*jobs(20, bad=7)) == {"stored": 19, "dead": 1}
    assert desk.letters() == {("dead", "refused_by_database", state): 1}


def test_a_batch_of_culprits_costs_one_try_for_each_and_little_more(desk: Desk) -> None:
    """A producer whose every event is refused must not take the workers' time from the others."""
    desk.raise_for("bad", "22008")
    records = jobs(1_000)
    records[100:900] = [SchedulerJob(id=f"j{n:04d}", name="bad") for n in range(100, 900)]
    statements = _count_statements(desk)
    assert desk.write(*records) == {"stored": 200, "dead": 800}
    assert desk.letters() == {("dead", "refused_by_database", "22008"): 800}
    ((tries,),) = desk.query("SELECT last_value FROM raised")
    assert 800 <= tries <= 800 + 1_000 // STEP_ROWS + 2
    assert len(statements) < 30, "the search is the server's, not a round trip for each try"


def _count_statements(desk: Desk) -> list[object]:
    """What the writer says to PostgreSQL from now on."""
    statements: list[object] = []

    class Counted(psycopg.Cursor[Any]):
        def execute(self, query: Any, *args: Any, **options: Any) -> Any:
            statements.append(query)
            return super().execute(query, *args, **options)

    desk.writer.database.connection().cursor_factory = Counted
    return statements


def test_of_several_events_of_one_key_only_the_culprit_is_dead(desk: Desk) -> None:
    """Each sets a column of its own, so that all are in the merged row; each alone is tried when that is refused."""
    desk.raise_for("bad", "22008")
    good = [SchedulerJob(id="a", pipeline="p"), SchedulerJob(id="a", cron_expr="c"), SchedulerJob(id="b", name="good")]
    assert desk.write(*good, SchedulerJob(id="a", name="bad")) == {"stored": 3, "dead": 1}
    assert desk.query("SELECT id, name, pipeline, cron_expr FROM scheduler.jobs ORDER BY 1") == [
        ("a", None, "p", "c"),
        ("b", "good", None, None),
    ]


def test_values_that_no_column_takes_are_dead_and_alone(desk: Desk) -> None:
    """They are refused before there is a row: by the type of a column, or by Python, which cannot write them."""
    pipelines = [SchedulerPipeline(name=f"p{n}", config={"n": float("inf") if n == 3 else n}) for n in range(6)]
    events = [encode_event("scheduler.pipeline", "upsert", VERSION, _json_of(p)) for p in pipelines]
    message = RawMessage(Envelope("desk", desk.epoch, 0, events).body(), CONTENT_TYPE, {})
    assert desk.writer.write([message]).outcomes == {"stored": 5, "dead": 1}
    assert desk.keys("scheduler.pipelines", "name") == ["p0", "p1", "p2", "p4", "p5"]


def _json_of(pipeline: SchedulerPipeline) -> bytes:
    """With 1e400, which Python reads as Infinity."""
    return json.dumps({"name": pipeline.name, "config": pipeline.config}).replace("Infinity", "1e400").encode()


@pytest.mark.parametrize(("state", "reason"), [("23505", "constraint"), ("23514", "constraint"), ("XX000", "unknown_error")])
def test_what_is_not_the_events_fault_is_held(desk: Desk, state: str, reason: str) -> None:
    desk.raise_for("bad", state)
    assert desk.write(*jobs(20, bad=7)) == {"stored": 19, "held": 1}
    assert desk.letters() == {("held", reason, state): 1}


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_time_that_utc_cannot_tell_is_dead_and_alone(desk: Desk, at: str) -> None:
    far = SchedulerJob(id="far", next_run=datetime.fromisoformat(at))
    assert desk.write(*jobs(3), far) == {"stored": 3, "dead": 1}


def test_a_constraint_that_was_in_the_way_once_holds_nothing(desk: Desk) -> None:
    desk.raise_for("bad", "23503", times=1)
    assert desk.write(*jobs(20, bad=7)) == {"stored": 20}


def test_a_parent_that_is_refused_harms_its_children_not(desk: Desk) -> None:
    """The parent's key is good, another of its indexed columns is not: its children get a placeholder in its place."""
    session = TranslationSession(session_id="s", user_id=too_long_for_an_index())
    other = TranslationSession(session_id="other")
    tasks = [TranslationTask(task_id=f"t{n}", session_id="s") for n in range(3)]
    assert desk.write(session, other, *tasks) == {"stored": 4, "dead": 1}
    assert desk.query("SELECT session_id, _version FROM translation.sessions ORDER BY 1") == [("other", VERSION), ("s", None)]
    assert desk.keys("translation.tasks", "task_id") == ["t0", "t1", "t2"]


def test_children_of_a_parent_that_can_never_be_go_with_it(desk: Desk) -> None:
    key = too_long_for_an_index()
    tasks = [TranslationTask(task_id="a", session_id="s"), TranslationTask(task_id="b", session_id=key)]
    assert desk.write(*tasks) == {"stored": 1, "dead": 1}
    assert desk.keys("translation.tasks", "task_id") == ["a"]


def test_texts_of_any_length_and_kind_are_accounted_for(desk: Desk) -> None:
    """A type stands in the indexes of dead letters, and a header's producer in the ledger's tables."""
    names = ["".join(chr(random.randrange(0x4E00, 0x9FFF)) for _ in range(2_000)) + end for end in "ab"]
    events = [encode_event(name, "upsert", VERSION, b"{}") for name in names]
    foreign = RawMessage(Envelope("desk", desk.epoch, 0, events).body(), CONTENT_TYPE, {})
    headers = {"epoch": str(new_epoch()), "seq": 0, "count": 2, "producer": "a\x00\ud800"}
    broken = RawMessage(b"{", CONTENT_TYPE, headers)
    assert desk.writer.write([foreign, broken, desk.message(*jobs(3))]).outcomes == {"held": 2, "dead": 2, "stored": 3}
    assert desk.letters() == {("held", "unknown_type", None): 2, ("dead", "not_json", None): 1}
    assert len(desk.query("SELECT DISTINCT fingerprint FROM penstock.dead_letters WHERE type IS NOT NULL")) == 2
    shown = "a\\u0000\\ud800"
    for table in ("penstock.producers", "penstock.dead_letters"):
        assert desk.query(f"SELECT DISTINCT producer FROM {table} ORDER BY 1") == [(shown,), ("desk",)]


@pytest.mark.parametrize("state", ["22023", "23505", "42804", "42883", "XX000"])
def test_what_cannot_be_accounted_for_is_a_messages_fault_in_the_end(desk: Desk, child: Child, state: str) -> None:
    """Nobody knows how it could be; if it is, one message must not keep all others from being stored."""
    message, other = desk.message(*jobs(4)), desk.message(SchedulerJob(id="other"))
    desk.query(
        f"CREATE FUNCTION refuse_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'as told' USING ERRCODE = "
        f"'{state}'; END $$; CREATE TRIGGER refusing BEFORE INSERT ON penstock.ledger FOR EACH ROW "
        f"WHEN (NEW.outcome = 'stored' AND lower(NEW.seqs) = 0) EXECUTE FUNCTION refuse_it()"
    )
    with pytest.raises(CulpritUnknown, match="as told"):
        child.write([message, other], "together")
    assert counts(child.write([message], "alone")) == {"held": 4}
    assert child.write([other], "alone")["stored"] == 1
    assert desk.letters() == {("held", "unknown_error", None): 1}
    assert desk.ledger() == {"held": 4, "stored": 1}


@pytest.mark.parametrize("state", ["22023", "42804"])
def test_a_message_whose_holding_cannot_be_noted_is_held_without_its_number(desk: Desk, child: Child, state: str) -> None:
    message = desk.message(*jobs(4))
    desk.query(
        f"CREATE FUNCTION refuse_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'as told' USING ERRCODE = "
        f"'{state}'; END $$; CREATE TRIGGER refusing BEFORE INSERT ON penstock.ledger FOR EACH ROW "
        f"WHEN (NEW.epoch = '{desk.epoch}') EXECUTE FUNCTION refuse_it()"
    )
    assert child.write([message], "alone")["held"] == 1
    assert desk.letters() == {("held", "unknown_error", None): 1}
    assert desk.ledger() == {}
    assert desk.query("SELECT octet_length(payload) FROM penstock.dead_letters") == [(len(message.body),)]


@pytest.mark.parametrize("name", ["ledger", "producers"])
def test_an_own_table_that_is_gone_is_no_events_fault(
    desk: Desk, child: Child, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    batch = [desk.message(*jobs(3))]
    desk.query(f"ALTER TABLE penstock.{name} RENAME TO hidden")
    for mode in ("together", "alone"):
        assert f"penstock.{name}" in child.write(batch, mode)["away"]  # type: ignore[arg-type]
    assert "refuses this worker" in caplog.text
    desk.query(f"ALTER TABLE penstock.hidden RENAME TO {name}")
    assert child.write(batch, "together")["stored"] == 3
    assert desk.letters() == {}


# -- try again -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["40001", "40P01", "55P03"])
def test_a_lost_lock_is_tried_again_after_growing_pauses(desk: Desk, state: str) -> None:
    desk.raise_for("bad", state, times=3)
    assert desk.write(*jobs(20, bad=7)) == {"stored": 20}
    assert desk.letters() == {}
    assert len(desk.pauses) == 3
    assert all(0.005 * 2**n <= pause <= 0.01 * 2**n for n, pause in enumerate(desk.pauses))


def test_two_workers_that_lock_each_other_out_both_store(desk: Desk) -> None:
    """A real deadlock: somebody else holds a later row and wants an earlier one."""
    desk.write(*jobs(2))
    with psycopg.connect(desk.url, options="-c deadlock_timeout=10s") as other:
        other.execute("SELECT FROM scheduler.jobs WHERE id = 'j0001' FOR UPDATE")
        sleeping: list[float] = []
        writer = desk.writer

        def release_on_retry(seconds: float) -> None:
            sleeping.append(seconds)
            other.rollback()

        writer._sleep = release_on_retry
        writer.database.connection().execute("SET lock_timeout = '100ms'")
        assert desk.write(*jobs(2), version=VERSION + 1) == {"stored": 2}
    assert len(sleeping) == 1


def test_a_stale_plan_is_tried_again_over_a_new_connection(desk: Desk) -> None:
    desk.write(*jobs(1))
    before = desk.writer.database.connection().info.backend_pid
    desk.raise_for("bad", "0A000", times=1)
    assert desk.write(*jobs(20, bad=7)) == {"stored": 20}
    assert desk.writer.database.connection().info.backend_pid != before


def test_locks_that_are_never_free_are_the_databases_affair(desk: Desk) -> None:
    desk.raise_for("bad", "55P03")
    with pytest.raises(DatabaseAway):
        desk.write(*jobs(20, bad=7))
    assert (len(desk.pauses), desk.ledger(), desk.letters()) == (10, {}, {})


# -- the database is away, or refuses us ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["08006", "53100", "53200", "57P01", "57014", "58030", "25006", "28000"])
def test_an_outage_is_nobodys_fault(desk: Desk, state: str) -> None:
    desk.raise_for("bad", state, times=1)
    batch = [desk.message(*jobs(20, bad=7))]
    with pytest.raises(DatabaseAway, match="as told"):
        desk.writer.write(batch)
    assert (desk.letters(), desk.ledger()) == ({}, {})
    assert desk.writer.write(batch).outcomes == {"stored": 20}


def test_an_outage_in_the_middle_of_a_search_for_a_culprit_is_nobodys_fault(desk: Desk) -> None:
    desk.raise_for("bad", "53100")
    records = jobs(20, bad=7)
    records[3] = SchedulerJob(id=too_long_for_an_index())
    with pytest.raises(DatabaseAway):
        desk.write(*records)
    assert (desk.letters(), desk.ledger()) == ({}, {})


def test_a_connection_that_was_closed_meanwhile_comes_back(desk: Desk) -> None:
    desk.write(*jobs(1))
    batch = [desk.message(*jobs(20))]
    desk.query(f"SELECT pg_terminate_backend({desk.writer.database.connection().info.backend_pid}, 5000)")
    with pytest.raises(DatabaseAway):
        desk.writer.write(batch)
    assert desk.writer.write(batch).outcomes == {"stored": 20}


def test_a_database_that_answers_but_takes_nothing_is_away_still(desk: Desk, child: Child) -> None:
    database = desk.query("SELECT quote_ident(current_database())")[0][0]
    batch = [desk.message(*jobs(3))]
    desk.query(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    assert "read-only" in child.write(batch, "together")["away"]
    assert "read-only" in child.probe()["away"]
    desk.query(f"ALTER DATABASE {database} RESET default_transaction_read_only")
    child.writer.database.close()
    assert child.probe() == {"ok": True}
    assert desk.query("SELECT * FROM penstock.suspects") == []
    assert child.write(batch, "together")["stored"] == 3


def test_a_network_that_swallows_everything_is_an_outage(desk: Desk) -> None:
    parameters = desk.writer.database.connection().info.get_parameters()
    assert int(parameters["tcp_user_timeout"]) < desk.settings.batch_time_limit_s * 1000


# -- tables that do not fit ----------------------------------------------------------------------------------------------------


def _drop_column(desk: Desk) -> None:
    desk.query("ALTER TABLE scheduler.jobs DROP COLUMN cron_expr")


def _drop_table(desk: Desk) -> None:
    desk.query("DROP TABLE scheduler.executions, scheduler.jobs")


@pytest.mark.parametrize("is_warm", [False, True])
@pytest.mark.parametrize("break_it", [_drop_column, _drop_table])
def test_a_table_that_does_not_fit_holds_its_own_events(desk: Desk, break_it: Callable[[Desk], None], is_warm: bool) -> None:
    if is_warm:
        desk.write(*jobs(1))
    before = desk.ledger()
    break_it(desk)
    assert desk.write(TranslationSession(session_id="s"), *jobs(3)) == {"stored": 1, "held": 3}
    assert [(state, reason) for state, reason, _ in desk.letters()] == [("held", "table_does_not_fit")]
    assert desk.ledger() == {"stored": before.get("stored", 0) + 1, "held": 3}


@pytest.mark.parametrize("is_warm", [False, True])
def test_a_parents_table_that_is_gone_holds_the_children_too(desk: Desk, is_warm: bool) -> None:
    task = TranslationTask(task_id="t", session_id="s")
    if is_warm:
        desk.write(task)
    desk.query("DROP TABLE translation.sessions CASCADE")
    assert desk.write(task, *jobs(3)) == {"stored": 3, "held": 1}
    assert [(state, reason) for state, reason, _ in desk.letters()] == [("held", "table_does_not_fit")]


@pytest.fixture
def role(desk: Desk) -> Iterator[str]:
    """Who writers are from now on: somebody who may do what `penstock worker` needs, and no more."""
    database, role = desk.query("SELECT quote_ident(current_database())")[0][0], f"limited_{desk.epoch.hex}"
    desk.query(
        f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA penstock, scheduler, translation TO {role}; "
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA penstock, scheduler, translation TO {role}"
    )
    desk.query(f"ALTER DATABASE {database} SET role = {role}")
    yield role
    desk.writer.database.close()
    desk.query(f"ALTER DATABASE {database} RESET role")
    desk.query(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


@pytest.mark.parametrize("is_warm", [False, True])
@pytest.mark.parametrize("right", ["SELECT", "INSERT", "UPDATE"])
def test_a_missing_grant_holds_the_events_of_its_table(
    desk: Desk, role: str, right: str, is_warm: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """One of the rows is there, so that no right can be done without; new ones are copied, which takes INSERT only."""
    desk.write(*jobs(1))
    if not is_warm:
        desk.writer.database.close()
    before = desk.ledger()
    desk.query(f"REVOKE {right} ON scheduler.jobs FROM {role}")
    assert desk.write(TranslationSession(session_id="s"), *jobs(3)) == {"stored": 1, "held": 3}
    assert desk.letters() == {("held", "not_permitted", "42501"): 3}
    assert desk.ledger() == {"stored": before.get("stored", 0) + 1, "held": 3}
    assert "scheduler.job are held" in caplog.text


def test_a_table_with_row_level_security_takes_rows_the_other_way(desk: Desk, role: str) -> None:
    """PostgreSQL copies into no such table; that is tried once, and seen from then on."""
    desk.query("ALTER TABLE scheduler.jobs ENABLE ROW LEVEL SECURITY")
    desk.query(f"CREATE POLICY all_of_them ON scheduler.jobs TO {role} USING (true)")
    errors = []
    for number in range(5):
        records = [SchedulerJob(id=f"{number}-{place}") for place in range(3)]
        with tapped(desk.writer.database.connection()) as traffic:
            assert desk.write(*records) == {"stored": 3}
        errors.append(traffic.errors)
    assert errors == [1, 0, 0, 0, 0]
    assert len(desk.keys("scheduler.jobs", "id")) == 15
    assert (desk.letters(), desk.pauses) == ({}, [])


@pytest.mark.parametrize("what", ["INSERT ON penstock.ledger", "TEMPORARY ON DATABASE {database}"])
def test_a_missing_grant_that_all_need_pauses_with_an_alarm(
    desk: Desk, role: str, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = desk.query("SELECT quote_ident(current_database())")[0][0]
    desk.query(f"REVOKE {what.format(database=database)} FROM {role}, public")
    with pytest.raises(DatabaseAway, match="permission denied"):
        desk.write(*jobs(3))
    assert (desk.letters(), desk.ledger()) == ({}, {})
    assert "refuses this worker" in caplog.text


# -- time ----------------------------------------------------------------------------------------------------------------------


def _us(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000)


def test_a_clock_too_far_ahead_is_held(desk: Desk) -> None:
    now = datetime.now(UTC)
    assert desk.write(SchedulerJob(id="soon"), version=_us(now + timedelta(minutes=4))) == {"stored": 1}
    assert desk.write(SchedulerJob(id="later"), version=_us(now + timedelta(minutes=6))) == {"held": 1}
    assert desk.letters() == {("held", "clock_ahead", None): 1}
    assert desk.keys("scheduler.jobs", "id") == ["soon"]


def test_append_only_events_outside_the_months_that_are_kept(desk: Desk) -> None:
    now = datetime.now(UTC)
    times = [now, now - timedelta(days=300), now - timedelta(days=500), now + timedelta(days=200)]
    assert desk.write(*(GuardianMetric(timestamp=at) for at in times)) == {"stored": 2, "expired": 1, "held": 1}
    assert desk.letters() == {("held", "no_partition_yet", None): 1}
    assert desk.ledger() == {"stored": 2, "expired": 1, "held": 1}


# -- rates ---------------------------------------------------------------------------------------------------------------------


def test_more_equal_dead_letters_than_the_rate_are_held(desk: Desk) -> None:
    desk.renew(dead_letter_rate_per_minute=5)
    desk.raise_for("bad", "22008")
    assert desk.write(*[SchedulerJob(id=f"a{n}", name="bad") for n in range(5)]) == {"dead": 5}
    outcomes = desk.write(*[SchedulerJob(id=f"b{n}", name="bad") for n in range(3)], SchedulerJob(id="c", name="good"))
    assert outcomes == {"held": 3, "stored": 1}
    assert desk.letters() == {("dead", "refused_by_database", "22008"): 5, ("held", "refused_by_database", "22008"): 3}
    assert desk.ledger() == {"dead": 5, "held": 3, "stored": 1}


def test_the_rate_counts_unreadable_events_too(desk: Desk) -> None:
    desk.renew(dead_letter_rate_per_minute=5)
    bodies = [Envelope("desk", desk.epoch, 10 * n, [b'{"type":"scheduler.job"}']).body() for n in range(8)]
    outcomes = desk.writer.write([RawMessage(body, CONTENT_TYPE, {}) for body in bodies]).outcomes
    assert (outcomes, desk.ledger()) == ({"held": 8}, {"held": 8})


def test_a_batch_written_again_says_the_same_and_leaves_one_letter(desk: Desk) -> None:
    desk.raise_for("bad", "22008")
    batch = [desk.message(*jobs(20, bad=7))]
    outcomes = [desk.writer.write(batch).outcomes for _ in range(3)]
    assert outcomes == [{"stored": 19, "dead": 1}] * 3
    assert desk.letters() == {("dead", "refused_by_database", "22008"): 1}
    folded = desk.query("SELECT outcome, range_agg(seqs)::text FROM penstock.ledger GROUP BY outcome ORDER BY 1")
    assert folded == [("dead", "{[7,8)}"), ("stored", "{[0,7),[8,20)}")]


# -- suspects ------------------------------------------------------------------------------------------------------------------


def _die_reading(desk: Desk, message: RawMessage, *, is_innocent: bool = False) -> None:
    """What is left of a try alone that ended with its process."""
    unwrapped = unwrap(message)
    assert unwrapped is not None
    with psycopg.connect(desk.url, autocommit=True) as connection:
        suspects.begin(connection, unwrapped.id, is_innocent=is_innocent)


@pytest.mark.parametrize(("deaths", "outcome"), [(0, "stored"), (2, "stored"), (3, "dead"), (4, "dead")])
def test_a_message_that_killed_its_reader_three_times_while_alone_is_dead(
    desk: Desk, child: Child, deaths: int, outcome: str
) -> None:
    message = desk.message(*jobs(4))
    for _ in range(deaths):
        _die_reading(desk, message)
    assert counts(child.write([message], "alone")) == {outcome: 4}
    assert desk.ledger() == {outcome: 4}
    assert desk.letters() == ({("dead", "killed_its_reader", None): 1} if outcome == "dead" else {})
    assert desk.query("SELECT count(*) FROM penstock.suspects") == [(0,)]


def test_tries_that_an_outage_ended_are_no_kills(desk: Desk, child: Child) -> None:
    message = desk.message(*jobs(4))
    for _ in range(2):
        _die_reading(desk, message)
    for _ in range(5):
        _die_reading(desk, message, is_innocent=True)
    assert child.write([message], "alone_innocent")["stored"] == 4


def test_an_outage_is_a_value_and_no_exception(desk: Desk, child: Child) -> None:
    away = Child(desk.settings.model_copy(update={"database_url": "postgresql://penstock@127.0.0.1:1/none"}), REGISTRY)
    for mode in ("together", "alone"):
        assert set(away.write([desk.message(*jobs(1))], mode)) == {"away"}  # type: ignore[arg-type]
    assert set(away.probe()) == {"away"}
    assert child.probe() == {"ok": True}


def test_a_database_that_is_not_migrated_is_away(desk: Desk, empty_database_url: str) -> None:
    unmigrated = Child(desk.settings.model_copy(update={"database_url": empty_database_url}), REGISTRY)
    messages: Sequence[RawMessage] = [desk.message(*jobs(1))]
    assert set(unmigrated.write(messages, "together")) == {"away"}
    assert set(unmigrated.probe()) == {"away"}
    unmigrated.writer.database.close()


def test_a_bug_that_one_message_meets_holds_that_message(desk: Desk, child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_messages: object) -> None:
        raise LookupError("nobody thought of this")

    monkeypatch.setattr(child.writer, "write", fail)
    message = desk.message(SchedulerJob(id="1"))
    with pytest.raises(LookupError):
        child.write([message], "together")

    assert counts(child.write([message], "alone")) == {"held": 1}
    assert desk.letters() == {("held", "unknown_error", None): 1}
    assert desk.query("SELECT * FROM penstock.suspects") == []
