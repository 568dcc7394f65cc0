"""A table as the bench sees it: what COPY puts into it over several connections is what was taken out of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest

from bench.records import TASK_MD5_SQL, build_records, checksum
from bench.site import Site
from bench.table import Table
from bench.workload import build_workload
from penstock_schemas.registry import load_registry
from penstock_worker.ingest.message import RawMessage
from penstock_worker.ingest.write import Writer
from penstock_worker.settings import Settings

EVENTS = 450


@pytest.fixture
def table(database_url: str, tmp_path: Path) -> Iterator[Table]:
    no_server = cast("Any", None)
    with psycopg.connect(database_url, autocommit=True) as connection:
        place = Site("redis", "redis://", no_server, database_url, no_server, tmp_path, connection, 0.0)
        yield Table(place, "translation.tasks", TASK_MD5_SQL)


@pytest.mark.parametrize("connections", [1, 2])
def test_copy_brings_back_what_the_worker_left(table, connections):
    load = build_workload(EVENTS)
    store(table, [*load.sessions, *load.tasks])
    lines, digest = table.export(), table.digest()
    assert table.sent_digest() == load.checksum

    table.empty()
    assert (table.rows(), table.sent_digest()) == (0, 0)
    assert table.copy(lines, connections) > 0

    assert (table.sent_digest(), table.digest()) == (load.checksum, digest)
    about = table.about()
    assert (about["rows"], about["bytes_per_row"]) == (EVENTS, round(len(lines) / EVENTS))
    assert sum("UNIQUE" in index for index in about["indexes"]) == 1
    assert sum("FOREIGN KEY" in index for index in about["indexes"]) == 1


def test_a_row_that_differs_is_another_digest(table):
    load = build_workload(EVENTS)
    store(table, [*load.sessions, *load.tasks])
    sessions, tasks = build_records(EVENTS)
    first = [task for task in tasks if task.session_id == sessions[0].session_id]
    assert table.sent_digest("session_id = %s", [sessions[0].session_id]) == checksum(first)
    before = table.digest()

    table.place.connection.execute("UPDATE translation.tasks SET tokens = tokens + 1 WHERE sequence = 7")

    assert table.sent_digest() != load.checksum
    assert table.digest() != before


def store(table: Table, messages: list[Any]) -> None:
    writer = Writer.of(Settings(database_url=table.place.database_url), load_registry(()))
    writer.write([RawMessage(message.body, message.content_type, message.headers) for message in messages])
    writer.database.close()
