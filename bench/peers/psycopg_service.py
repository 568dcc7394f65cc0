"""
A synchronous upsert with psycopg in the service itself: no broker, each event its own transaction.

As psycopg's documentation advises: one open connection, in autocommit, the statement prepared. Eight processes, each with its
part of the events, for each waits for its COMMITs, and PostgreSQL syncs those of several at once. All begin at the same moment,
with their rows parsed, as a service has them.

    BENCH_PEER=settings.json python psycopg_service.py fill | work
"""

from __future__ import annotations

import json
import os
import sys
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

SETTINGS = json.loads(Path(os.environ["BENCH_PEER"]).read_text())


def publish(number: int, begin: Barrier) -> None:
    rows = _rows(number)
    names = list(rows[0])
    columns, values = ", ".join(names), ", ".join(["%s"] * len(names))
    changes = ", ".join(f"{name} = excluded.{name}" for name in names if name != "task_id")
    upsert = f"INSERT INTO peers.tasks ({columns}) VALUES ({values}) ON CONFLICT (task_id) DO UPDATE SET {changes}"
    with psycopg.connect(SETTINGS["database_url"], autocommit=True) as connection:
        begin.wait()
        for row in rows:
            connection.execute(upsert, list(row.values()), prepare=True)


def _rows(number: int) -> list[dict[str, Any]]:
    lines = Path(SETTINGS["rows"]).read_text().splitlines()
    rows = [json.loads(line) for line in lines[number :: SETTINGS["processes"]]]
    return [row | {"metadata": Jsonb(row["metadata"])} for row in rows]


if __name__ == "__main__" and sys.argv[1] == "work":
    context = get_context("spawn")
    count = SETTINGS["processes"]
    begin = context.Barrier(count)
    processes = [context.Process(target=publish, args=(number, begin)) for number in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
