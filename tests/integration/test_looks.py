"""What a pool child says of the database when an idle worker asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from penstock_schemas.registry import load_registry
from penstock_worker.ingest.tasks import Child
from penstock_worker.settings import Settings
from tests.servers.databases import database_of


@pytest.fixture
def new_child() -> Iterator[Callable[[str], Child]]:
    children: list[Child] = []

    def make(url: str) -> Child:
        children.append(Child(Settings(database_url=url, connect_timeout_s=2), load_registry()))
        return children[-1]

    yield make
    for child in children:
        child.database.close()


def test_a_database_that_is_there(database_url: str, new_child: Callable[[str], Child]) -> None:
    """Its session may have been cut meanwhile."""
    child = new_child(database_url)
    assert child.look(asks_migrations=True) == {"ok": True}
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(%s, 60000)", [child.database.connection().info.backend_pid])
    assert child.look(asks_migrations=False) == {"ok": True}


def test_one_that_is_not_migrated(empty_database_url: str, new_child: Callable[[str], Child]) -> None:
    child = new_child(empty_database_url)
    why = "the database is not migrated (penstock_schemas): run `penstock migrate up`"
    assert child.look(asks_migrations=True) == {"ok": True, "unmigrated": why}
    assert child.look(asks_migrations=False) == {"ok": True}


def test_one_that_takes_nothing(database_url: str, new_child: Callable[[str], Child]) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{database_of(database_url)}" SET default_transaction_read_only = on')
    assert new_child(database_url).look(asks_migrations=True) == {"away": "the server is a standby, or read-only"}
    assert set(new_child("postgresql://penstock@127.0.0.1:1/none").look(asks_migrations=True)) == {"away"}


def test_who_may_not_read_how_far_it_is_migrated_is_not_kept_from_writing(
    database_url: str, new_child: Callable[[str], Child]
) -> None:
    """It says so, and is not paused for it."""
    child = new_child(database_url)
    connection = child.database.connection()
    connection.execute("CREATE ROLE blind")
    try:
        connection.execute("GRANT USAGE ON SCHEMA penstock TO blind")
        connection.execute("SET ROLE blind")
        assert child.look(asks_migrations=True) == {"ok": True, "unmigrated": "permission denied for table alembic_version"}
    finally:
        connection.execute("RESET ROLE")
        connection.execute("DROP OWNED BY blind")
        connection.execute("DROP ROLE blind")
