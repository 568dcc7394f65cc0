"""What the tests of erasure share: types of every kind of subject, events of people, and a look at what is left of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from psycopg import sql
from pydantic import AwareDatetime

from penstock_schemas import Declaration, Parent, Record, Registry
from penstock_schemas.registry import load_registry
from penstock_worker.ingest.block_reader import BlockReader
from penstock_worker.maintenance.job import Done, run_job
from penstock_worker.maintenance.jobs import all_jobs
from penstock_worker.store.connection import connect_with
from penstock_worker.store.partitions import ensure_partitions
from penstock_worker.store.privacy.erase import erase_person
from penstock_worker.store.privacy.fences import Fences
from penstock_worker.store.privacy.log import Request
from penstock_worker.store.privacy.report import Proof
from penstock_worker.store.tables import metadata_for
from tests.replaying import VERSION, Office, event

__all__ = ["NOW", "PERSON", "REGISTRY", "Registrar", "session", "task"]

NOW = datetime.now(UTC).replace(microsecond=0)
PERSON = "6f2c1d3a-0b1e-4c5d-8e9f-0a1b2c3d4e5f"


class Visit(Record):
    """About a person whose id is a UUID; all columns `newest`."""

    __record__ = Declaration(type="lab.visit", table="lab.visits", key="visit_id", subject="person")

    visit_id: UUID
    person: UUID | None = None
    place: str | None = None


class Score(Record):
    """About a person whose id is a number; a key of two columns."""

    __record__ = Declaration(type="lab.score", table="lab.scores", key=("game", "number"), subject="player")

    game: str
    number: int
    player: int | None = None
    points: int | None = None


class Click(Record):
    """Append-only, and no audit log."""

    __record__ = Declaration(type="lab.click", table="lab.clicks", key=("id", "at"), append_only="at", subject="user")

    id: UUID | None = None
    at: AwareDatetime
    user: str | None = None
    page: str | None = None


class Thread(Record):
    """A parent whose columns are all `newest`."""

    __record__ = Declaration(type="lab.thread", table="lab.threads", key="thread_id", subject="owner")

    thread_id: int
    owner: str | None = None
    title: str | None = None


class Post(Record):
    """A child that names somebody itself, and is a parent."""

    __record__ = Declaration(
        type="lab.post", table="lab.posts", key="post_id", parent=Parent("thread_id", "lab.thread"), subject="author"
    )

    post_id: UUID
    thread_id: int
    author: str | None = None
    text: str | None = None


class Reply(Record):
    """A grandchild that names nobody."""

    __record__ = Declaration(type="lab.reply", table="lab.replies", key="reply_id", parent=Parent("post_id", "lab.post"))

    reply_id: str
    post_id: UUID
    text: str | None = None


_OWN = (Visit, Score, Click, Thread, Post, Reply)
REGISTRY = Registry([*_OWN, *load_registry().classes.values()])


class Registrar(Office):
    """An office that erases."""

    def __init__(self, url: str, **settings: Any) -> None:
        _create_tables(url)
        super().__init__(url, REGISTRY, **settings)
        ensure_partitions(self.connection, REGISTRY["lab.click"])

    def clear(self) -> None:
        """Forget everything, and everybody who was erased."""
        tables = self.query(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema') AND tablename NOT LIKE 'alembic%'"
        )
        self.connection.execute("; ".join(f"DELETE FROM {name}" for (name,) in sorted(tables, key=_children_first)).encode())
        self.writer.fences = Fences()
        self.writer.blocks = BlockReader(self.writer.validators)

    def erase(self, person: str) -> Proof:
        with connect_with(self.settings)() as connection:
            return erase_person(connection, REGISTRY, self.settings, Request(person, "Grace", "ticket 7"))

    def run(self, job: str) -> Done:
        """A job of maintenance, as beat runs it."""
        return run_job(all_jobs(self.settings)[job], self.settings, REGISTRY, started_by="test")

    def left(self, type: str) -> list[tuple[Any, ...]]:
        """Key and content of the rows of a type that say anything, bookkeeping left out."""
        record = REGISTRY[type]
        keys = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in record.key)
        query = sql.SQL(
            "SELECT {keys}, content FROM {table} AS r, LATERAL (SELECT jsonb_strip_nulls(to_jsonb(r) - {own}::text[]) AS"
            " content) AS said WHERE content <> '{{}}' ORDER BY {keys}"
        ).format(
            keys=keys,
            table=sql.Identifier(*record.declaration.table.split(".")),
            own=[*record.key, "_version", "_event", "_oldest", "_deleted_version", "_deleted_event", "_stamps", "_stored_at"],
        )
        return self.connection.execute(query).fetchall()


def _children_first(table: tuple[str]) -> int:
    names = [record.declaration.table for record in reversed(list(REGISTRY.values()))]
    return names.index(table[0]) if table[0] in names else -1


def _create_tables(url: str) -> None:
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE SCHEMA lab"))
    metadata = metadata_for(REGISTRY)
    metadata.create_all(engine, [table for table in metadata.tables.values() if table.schema == "lab"])


def session(key: str, user: str | None = "ada", version: int = VERSION, **data: Any) -> bytes:
    named = {} if user is None else {"user_id": user}
    return event("translation.session", {"session_id": key, **named, **data}, version)


def task(key: str, parent: str, version: int = VERSION, **data: Any) -> bytes:
    return event("translation.task", {"task_id": key, "session_id": parent, **data}, version)
