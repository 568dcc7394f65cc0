"""What each role may do in a real PostgreSQL, and what it is refused; docs/security.md tells it to people."""

from __future__ import annotations

import random
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict
from pydantic import AwareDatetime

from penstock_migrations.run import check_migrated, create, downgrade, lacking_roles, upgrade
from penstock_schemas import Declaration, Record
from penstock_schemas.answer import Answer
from penstock_schemas.registry import load_registry
from penstock_schemas.wire import CONTENT_TYPE, Envelope, new_epoch
from penstock_worker.cli import main
from penstock_worker.errors import ConfigurationError
from penstock_worker.ingest.answers import split_answers
from penstock_worker.ingest.message import RawMessage
from penstock_worker.ingest.tasks import Child
from penstock_worker.maintenance.backup import make_backup
from penstock_worker.maintenance.job import Work, run_job
from penstock_worker.maintenance.jobs import all_jobs
from penstock_worker.maintenance.restore import restore_backup
from penstock_worker.settings import Settings
from penstock_worker.store import measures
from penstock_worker.store.backup.shelf import list_backups
from penstock_worker.store.own_tables import add_own_tables
from penstock_worker.store.ownership import is_handed_over, settle_roles, withdraw_roles
from penstock_worker.store.partitions import ensure_partitions, list_partitions
from penstock_worker.store.privacy.fences import set_fences
from penstock_worker.store.recovery import claim, release, renew, resolve, restore
from penstock_worker.store.roles import ADMIN, HIDDEN_FROM_READERS, INGEST, OF_INGEST, READ, ROLES
from tests.backing_up import fill
from tests.cases import Picker, pick_delivery, pick_events, with_culprits
from tests.erasing import session, task
from tests.lab import Lab, differences
from tests.packages import Shop
from tests.records import REGISTRY as LAB_TYPES
from tests.replaying import event
from tests.servers.databases import PostgresServer
from tests.servers.memory import quick_folder

REGISTRY = load_registry(())
METRICS = next(record for record in REGISTRY.values() if record.declaration.table == "guardian.metrics")
OURS = "penstock_schemas"
ADDRESS = f"penstock.answers.{1:032x}"
#: Who owns what of ours: tables, partitions, schemas, functions.
_OWNERS = """
    SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace::regnamespace::text !~ '^(pg_|information_schema$)'
    UNION SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema$|public$)'
    UNION SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE pronamespace = 'penstock'::regnamespace
"""


def run(url: str, *statements: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True, options="-c timezone=UTC") as connection:
        for statement in statements:
            cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def as_user(url: str, name: str) -> str:
    return re.sub(r"//[^@]*@", f"//{name}:x@", url)


@dataclass(frozen=True)
class Site:
    """A database whose tables are `penstock_admin`'s, and the URLs of those who log in."""

    superuser: str
    ingest: str
    read: str
    admin: str
    other_admin: str


class Logins:
    """Login roles of a server, dropped at the end: the roles of Penstock stay, as they do in a cluster."""

    def __init__(self, url: str) -> None:
        self._url, self._names = url, []

    def member_of(self, role: str, words: str = "") -> Callable[[str], str]:
        """Somebody new; their URL of a database."""
        name = f"{role.removeprefix('penstock_')}_{uuid4().hex[:8]}"
        self._names.append(name)
        run(
            self._url, f"CREATE ROLE {name} LOGIN {words} PASSWORD 'x'", *([f"GRANT {role} TO {name}"] if role in ROLES else [])
        )
        return lambda url: as_user(url, name)

    def clean_up(self) -> None:
        for name in self._names:
            run(self._url, f"DROP ROLE IF EXISTS {name}")


@pytest.fixture(scope="module")
def logins(postgres_server: PostgresServer, template_database: str) -> Iterator[Logins]:
    found = Logins(postgres_server.url)
    yield found
    found.clean_up()


@pytest.fixture(scope="module")
def site(postgres_server: PostgresServer, template_database: str, logins: Logins) -> Iterator[Site]:
    url = postgres_server.create_database(template_database)
    upgrade(url, REGISTRY, hands_over=True)
    # As docs/security.md has it: nobody is let in for being there.
    run(url, f"REVOKE ALL ON DATABASE {conninfo_to_dict(url)['dbname']} FROM PUBLIC")
    who = [logins.member_of(role)(url) for role in (INGEST, READ, ADMIN, ADMIN)]
    for one in who:
        run(url, f"GRANT CONNECT ON DATABASE {conninfo_to_dict(url)['dbname']} TO {conninfo_to_dict(one)['user']}")
    yield Site(url, *who)
    postgres_server.drop_database(url)


@pytest.fixture
def child(site: Site) -> Iterator[Child]:
    """A pool child of an ingest-only worker."""
    child = Child(Settings(database_url=site.ingest), REGISTRY)
    yield child
    child.writer.database.close()


def message(*events: bytes, **more: Any) -> RawMessage:
    envelope = Envelope("web", new_epoch(), 0, events, **more)
    return RawMessage(envelope.body(), CONTENT_TYPE, envelope.headers())


def counts(result: dict[str, Any]) -> dict[str, int]:
    return {name: count for name, count in result.items() if name in ("stored", "superseded", "dead", "held", "fenced", "away")}


# Ingest


@pytest.fixture(scope="module")
def lab(postgres_server: PostgresServer, logins: Logins) -> Iterator[Lab]:
    """Tables of every kind, whose writers log in as ingestion does."""
    url = postgres_server.create_database()
    lab = Lab(url, connections=0)
    with psycopg.connect(url, autocommit=True) as connection:
        settle_roles(connection, LAB_TYPES)
    lab._settings = Settings(database_url=logins.member_of(INGEST)(url))
    lab.renew(2)
    yield lab
    lab.close()
    postgres_server.drop_database(url)


def test_ingest_writes_whatever_comes(lab: Lab):
    """Upserts full and partial, deletes, children before their parents, append-only rows, what the database refuses."""
    draw = random.Random(6)
    for _ in range(15):
        pick = Picker(draw.randint)
        events = with_culprits(pick, pick_events(pick))
        assert differences(lab, events, pick_delivery(pick, events, 2, cut_one_in=pick.one((2, 1, 1000)))) == {}


def test_ingest_writes_every_built_in_type(child: Child):
    now = datetime.now(UTC).isoformat()
    samples = {"text": "x", "bigint": 1, "uuid": str(uuid4()), "timestamptz": now, "date": now[:10]}
    events = []
    for name, record in REGISTRY.items():
        parent = [record.declaration.parent.field] if record.declaration.parent else []
        columns = {column: samples[str(record.by_name[column].kind)] for column in (*record.key, *parent)}
        events.append(event(name, columns))

    assert counts(child.write([message(*events)], "together")) == {"stored": len(REGISTRY)}


def test_ingest_notes_letters_suspects_and_answers(child: Child, site: Site):
    unreadable = RawMessage(b"\xff", CONTENT_TYPE, {})
    held = message(event("nobody.knows", {"id": 1}))
    dead = message(session("dead"), event("translation.session", {}))
    epoch = new_epoch()
    asked = Envelope("web", epoch, 0, (session("asked"),), reply_to=ADDRESS)
    asking = Envelope("web", epoch, 1, (), reply_to=ADDRESS, query=((0, 0),))

    assert child.probe() == {"ok": True}
    assert counts(child.write([unreadable], "together")) == {"dead": 1}
    assert counts(child.write([held, dead], "together")) == {"stored": 1, "dead": 1, "held": 1}
    assert counts(child.write([message(session("suspect"))], "alone")) == {"stored": 1}
    written = [child.write([RawMessage(one.body(), CONTENT_TYPE, one.headers())], "together") for one in (asked, asking)]
    answers = [Answer.parse(line) for one in written for _, line in split_answers(one["answers"])]
    assert [(answer.epoch, list(answer.outcomes)) for answer in answers] == [(epoch, [("stored", 0, 0)])] * 2


def test_ingest_refuses_the_erased_and_marks_their_children(child: Child, site: Site):
    with psycopg.connect(site.admin, autocommit=True) as admin:
        set_fences(admin, "ada", 0)

    assert counts(child.write([message(task("t-ada", "s-ada"))], "together")) == {"stored": 1}
    assert counts(child.write([message(session("s-ada", "ada"))], "together")) == {"fenced": 1}
    assert run(site.admin, "SELECT type, key FROM penstock.erased_parents") == [("translation.session", "s-ada")]


def test_ingest_of_a_users_own_types(postgres_server: PostgresServer, database_url: str, logins: Logins, tmp_path: Path):
    """Their schema and tables are in no migration of ours, and their months are made later."""

    class Order(Record):
        __record__ = Declaration(type="shop.order", table="shop.orders", key="order_id")
        order_id: str

    class Click(Record):
        __record__ = Declaration(type="shop.click", table="shop.clicks", key=("id", "at"), append_only="at")
        id: str
        at: AwareDatetime

    shop = Shop(tmp_path)
    registry = shop.declares(Order, Click)
    create(database_url, registry, "shop", "first", shop.locations)
    upgrade(database_url, registry, shop.locations)
    now = datetime.now(UTC)
    with psycopg.connect(database_url, autocommit=True) as owner:
        assert ensure_partitions(owner, registry["shop.click"], now + timedelta(days=60))
    ingest, read = (logins.member_of(role)(database_url) for role in (INGEST, READ))
    child = Child(Settings(database_url=ingest), registry)
    try:
        soon = (now + timedelta(minutes=1)).isoformat()
        events = [event("shop.order", {"order_id": "1"}), event("shop.click", {"id": "1", "at": soon})]
        assert counts(child.write([message(*events)], "together")) == {"stored": 2}
    finally:
        child.writer.database.close()
    assert run(read, "SELECT (SELECT count(*) FROM shop.orders), (SELECT count(*) FROM shop.clicks)") == [(1, 1)]


_CHANGES_OF_TABLES = [
    "CREATE TABLE translation.mine (id int)",
    "CREATE TABLE penstock.mine (id int)",
    "CREATE SCHEMA mine",
    "CREATE FUNCTION penstock.stamp(int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE OR REPLACE FUNCTION penstock.stamp(bigint, uuid) RETURNS text LANGUAGE sql AS 'SELECT 1::text'",
    "ALTER TABLE translation.sessions ADD COLUMN mine int",
    "DROP TABLE translation.tasks",
    "TRUNCATE translation.tasks",
    "DELETE FROM translation.tasks",
    "DELETE FROM guardian.metrics",
    "DELETE FROM penstock.dead_letters",
    "TRUNCATE penstock.ledger",
    "UPDATE penstock.ledger SET outcome = 'stored'",
    "UPDATE penstock.schedule SET is_enabled = false",
    "UPDATE penstock.legal_holds SET released_at = now()",
    "UPDATE penstock.alembic_version SET version_num = '0001'",
    "INSERT INTO penstock.fences (subject, version, generation) VALUES ('x', 1, 1)",
    "SELECT FROM penstock.privacy_log",
    "SELECT rolpassword FROM pg_authid",
    "SELECT pg_read_file('/etc/passwd')",
    "COPY translation.tasks TO PROGRAM 'true'",
    "SET ROLE penstock_admin",
]
_WRITES = [
    "INSERT INTO translation.sessions (session_id) VALUES ('mine')",
    "UPDATE translation.sessions SET status = 'failed'",
    "INSERT INTO penstock.ledger (epoch, seqs, outcome) VALUES (gen_random_uuid(), '[1,2)', 'stored')",
    "UPDATE penstock.dead_letters SET state = 'dead'",
    "DELETE FROM penstock.suspects",
    "UPDATE penstock.recoveries SET claimed_by = 'me'",
    "CREATE TEMP TABLE mine (id int)",
    "SELECT FROM penstock.fence_key",
    "SELECT FROM penstock.fences",
    "SELECT FROM penstock.erased_parents",
]


@pytest.mark.parametrize("statement", _CHANGES_OF_TABLES)
@pytest.mark.parametrize("who", ["ingest", "read"])
def test_what_neither_may(site: Site, who: str, statement: str):
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        run(getattr(site, who), statement)


@pytest.mark.parametrize("statement", _WRITES)
def test_readers_do_not_write(site: Site, statement: str):
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        run(site.read, statement)


def test_every_table_of_ours_was_thought_of():
    """A new table is nobody's but the owner's, until somebody has said who reads it."""
    metadata = sa.MetaData()
    add_own_tables(metadata)
    names = {table.name for table in metadata.tables.values()}

    assert names >= OF_INGEST.keys() | HIDDEN_FROM_READERS
    assert names - OF_INGEST.keys() - HIDDEN_FROM_READERS == {
        "replay_pauses",
        "schedule",
        "maintenance_runs",
        "table_sizes",
        "recoveries",
        "recovery_scans",
    }


# Reading


@pytest.mark.parametrize(
    "words",
    [
        "status --json",
        "audit --json",
        "trace translation.session s-1 --json",
        "dead-letters list --json",
        "dead-letters export --output letters.jsonl",
        "schedule list --json",
        "maintenance runs --json",
        "recovery list --json",
        "retention plan --json",
        "retention holds --json",
        "disk --json",
        "dump translation.sessions --format ndjson",
        "dump guardian.metrics --format csv",
    ],
)
def test_reading_commands_run_as_a_reader(
    site: Site, valkey_url: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", site.read)
    monkeypatch.setenv("PENSTOCK_BROKER_URL", valkey_url)
    monkeypatch.setattr(sys, "argv", ["penstock", *words.split()])
    with pytest.raises(SystemExit) as ended:
        main()

    said = capsys.readouterr()
    assert (ended.value.code or 0, "permission denied" in said.out + said.err) == (0, False), said.err


def test_the_exporter_measures_as_a_reader(site: Site):
    connection = measures.open_measuring(Settings(database_url=site.read))
    with connection:
        figures = [measures.take(connection, measure) for measure in measures.MEASURES]
    assert len(figures) == len(measures.MEASURES)


def test_a_reader_may_start_what_asks_for_migrations(site: Site):
    check_migrated(site.read, REGISTRY)
    check_migrated(site.ingest, REGISTRY)


def test_a_service_that_resumes_sessions_is_a_reader_and_may_claim(database_url: str, logins: Logins):
    """The statement stands in docs/security.md."""
    service = logins.member_of(READ)(database_url)
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    (grant,) = [line for line in page.splitlines() if line.startswith("GRANT UPDATE (")]
    ((recovery,),) = run(
        database_url,
        grant.replace("resumer", str(conninfo_to_dict(service)["user"])),
        "INSERT INTO translation.sessions (session_id, _version, _event) VALUES ('s-1', 1, gen_random_uuid())",
        "INSERT INTO penstock.recoveries (type, key, last_activity, checked_at)"
        " VALUES ('translation.session', '[\"s-1\"]', now(), now()) RETURNING id",
    )

    with psycopg.connect(service, autocommit=True, options="-c timezone=UTC") as connection:
        held = claim(connection, recovery, by="me", for_s=60)
        assert held is not None
        renew(connection, recovery, held.token, for_s=60)
        release(connection, recovery, held.token)
        again = claim(connection, recovery, by="me", for_s=60)
        assert again is not None
        with restore(connection, REGISTRY, "translation.session", ["s-1"]) as found:
            assert found.record["session_id"] == "s-1"
        assert resolve(connection, recovery, again.token).outcome == "resolved"
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("UPDATE penstock.recoveries SET type = 'x'")


# Keeping house


def test_every_job_runs_as_an_admin(site: Site, valkey_url: str, tmp_path: Path):
    fill(site.admin)
    settings = Settings(
        database_url=site.admin, broker_url=valkey_url, backup_folder=tmp_path / "backups", spool_folder=tmp_path / "spool"
    )

    done = {name: run_job(job, settings, REGISTRY, started_by="test") for name, job in all_jobs(settings).items()}

    assert {name: run.state for name, run in done.items() if run.state != "done"} == {}
    assert run(site.admin, _OWNERS) == [(ADMIN,)]


def test_one_admins_month_is_another_ones_to_drop(site: Site):
    record = METRICS
    later = datetime.now(UTC) + timedelta(days=400)
    with psycopg.connect(site.other_admin, autocommit=True) as other:
        made = ensure_partitions(other, record, later)
    assert made
    assert run(site.admin, _OWNERS) == [(ADMIN,)]
    with psycopg.connect(site.admin, autocommit=True) as admin:
        for name in made:
            admin.execute(f"DROP TABLE guardian.{name}".encode())
        assert not {month.name for month in list_partitions(admin, record)} & set(made)


def test_an_admin_migrates_and_what_it_makes_is_every_admins(site: Site, tmp_path: Path):
    class Order(Record):
        __record__ = Declaration(type="shop.order", table="shop.orders", key="order_id")
        order_id: str

    shop = Shop(tmp_path)
    registry = shop.declares(Order)
    create(site.admin, registry, "shop", "first", shop.locations)
    upgrade(site.admin, registry, shop.locations)
    try:
        assert run(site.admin, _OWNERS) == [(ADMIN,)]
    finally:
        downgrade(site.other_admin, registry, "shop", locations=shop.locations)


def test_up_lays_down_the_rights_anew(site: Site):
    run(
        site.admin,
        f"REVOKE INSERT ON translation.sessions FROM {INGEST}",
        f"GRANT DELETE ON translation.sessions TO {INGEST}",
        f"REVOKE USAGE ON SCHEMA guardian FROM {READ}",
    )
    upgrade(site.admin, REGISTRY)

    held = "SELECT has_table_privilege(%s, 'translation.sessions', right_) FROM unnest(ARRAY['INSERT', 'DELETE']) AS right_"
    with psycopg.connect(site.admin) as connection:
        assert connection.execute(held, [INGEST]).fetchall() == [(True,), (False,)]
        assert connection.execute("SELECT has_schema_privilege(%s, 'guardian', 'USAGE')", [READ]).fetchone() == (True,)
    assert upgrade(site.admin, REGISTRY) == []


# Roles that are not there, and coming back


@pytest.fixture(scope="module")
def bare_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """Another cluster, which has none of the roles."""
    with quick_folder(tmp_path_factory.mktemp("bare")) as folder:
        server = PostgresServer(folder, is_synced=False)
        try:
            server.start()
            yield server
        finally:
            server.clean_up()


@pytest.fixture(scope="module")
def bare_template(bare_server: PostgresServer) -> str:
    """A database of `someone` who migrated it and may make no roles."""
    run(bare_server.url, "CREATE ROLE someone LOGIN PASSWORD 'x'")
    url = bare_server.create_database()
    name = str(conninfo_to_dict(url)["dbname"])
    run(url, f'ALTER DATABASE "{name}" OWNER TO someone')
    upgrade(as_user(url, "someone"), REGISTRY)
    return name


@pytest.fixture
def bare(bare_server: PostgresServer, bare_template: str) -> Iterator[str]:
    """Such a database; afterwards the cluster has none of the roles again."""
    url = bare_server.create_database(bare_template)
    run(url, f'ALTER DATABASE "{conninfo_to_dict(url)["dbname"]}" OWNER TO someone', "ALTER ROLE someone NOCREATEROLE")
    yield as_user(url, "someone")
    bare_server.drop_database(url)
    run(bare_server.url, *(f"DROP ROLE IF EXISTS {role}" for role in ROLES))


def names(url: str) -> list[Any]:
    return [name for (name,) in run(url, "SELECT rolname FROM pg_roles WHERE rolname ~ '^penstock_' ORDER BY 1")]


def test_who_may_not_make_roles_is_told_who_must(bare: str, bare_server: PostgresServer):
    said = lacking_roles(bare)

    assert names(bare) == []
    assert said is not None
    assert "\n" not in said
    with pytest.raises(ConfigurationError, match="let a superuser run CREATE ROLE penstock_ingest NOLOGIN;"):
        upgrade(bare, REGISTRY, hands_over=True)
    statements = said.partition("let a superuser run ")[2].partition(" and then")[0]
    run(bare_server.url, statements)
    assert upgrade(bare, REGISTRY) == []
    assert lacking_roles(bare) is None
    assert run(bare, f"SELECT has_table_privilege('{INGEST}', 'translation.sessions', 'INSERT')") == [(True,)]


def test_who_owned_the_tables_goes_on_when_a_superuser_gives_them_away(bare: str, bare_server: PostgresServer):
    assert run(bare, _OWNERS) == [("someone",)]

    upgrade(bare_server.url_of(str(conninfo_to_dict(bare)["dbname"])), REGISTRY, hands_over=True)

    assert run(bare, _OWNERS) == [(ADMIN,)]
    with psycopg.connect(bare, autocommit=True) as owner:
        assert ensure_partitions(owner, METRICS, datetime.now(UTC) + timedelta(days=400))
    assert run(bare, _OWNERS) == [(ADMIN,)]


def test_down_takes_everything_from_the_roles_and_drops_those_nobody_uses(bare: str, bare_server: PostgresServer):
    run(bare_server.url, "ALTER ROLE someone CREATEROLE")
    with psycopg.connect(bare, autocommit=True) as connection:
        settle_roles(connection, REGISTRY, hands_over=True)
    run(bare_server.url, f"CREATE ROLE reader IN ROLE {READ}")
    other = bare_server.create_database()
    run(other, f"CREATE TABLE theirs (id int); GRANT SELECT ON theirs TO {INGEST}")
    try:
        downgrade(bare, REGISTRY, OURS, "0004")
        # One has a member, one has something elsewhere, which it keeps.
        assert names(bare) == [INGEST, READ]
        assert run(other, f"SELECT has_table_privilege('{INGEST}', 'theirs', 'SELECT')") == [(True,)]
        assert run(bare, _OWNERS) == [("someone",)]
        assert run(bare, f"SELECT has_table_privilege('{INGEST}', 'translation.sessions', 'SELECT')") == [(False,)]
    finally:
        bare_server.drop_database(other)
        run(bare_server.url, "DROP ROLE reader")
    with psycopg.connect(bare, autocommit=True) as connection:
        withdraw_roles(connection)
    assert names(bare) == []


def test_databases_of_one_cluster_make_the_roles_at_once(bare: str, bare_server: PostgresServer, bare_template: str):
    """By somebody who may make roles and is no superuser, and so becomes a member of one, three times at once."""
    run(bare_server.url, "ALTER ROLE someone CREATEROLE")
    assert names(bare) == []
    urls = [as_user(bare_server.create_database(bare_template), "someone") for _ in range(3)]
    run(bare_server.url, *(f'ALTER DATABASE "{conninfo_to_dict(url)["dbname"]}" OWNER TO someone' for url in urls))
    failures: list[Exception] = []
    start = threading.Barrier(len(urls))

    def settle(url: str) -> None:
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                start.wait(30)
                settle_roles(connection, REGISTRY, hands_over=True)
        except Exception as exc:  # noqa: BLE001  # raised below, in the test's own thread
            failures.append(exc)

    threads = [threading.Thread(target=settle, args=(url,)) for url in urls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert [run(url, _OWNERS) for url in urls] == [[(ADMIN,)]] * 3
    for url in urls:
        bare_server.drop_database(url)


def test_a_backup_brings_roles_and_rights_into_another_cluster(site: Site, bare_server: PostgresServer, tmp_path: Path):
    settings = Settings(database_url=site.superuser, backup_folder=tmp_path)
    with psycopg.connect(site.superuser, autocommit=True) as connection:
        make_backup(Work(settings, REGISTRY, connection, datetime.now(UTC)))
    (backup,) = list_backups(tmp_path)
    url = bare_server.create_database()
    try:
        restored = restore_backup(
            backup.path, backup.header, Settings(database_url=url), REGISTRY, progress=lambda step, done, total: None
        )

        assert run(url, _OWNERS) == [(ADMIN,)]
        assert restored.left_out == []
        rights = f"SELECT has_table_privilege('{INGEST}', 'translation.tasks', 'UPDATE')"
        assert run(
            url,
            rights,
        ) == [(True,)]
        with psycopg.connect(url, autocommit=True) as connection:
            assert is_handed_over(connection)
    finally:
        bare_server.drop_database(url)
        run(bare_server.url, *(f"DROP ROLE IF EXISTS {role}" for role in ROLES))
