"""
A synchronous upsert with psycopg in the service itself: no broker, each event its own transaction.

As psycopg's documentation advises: one open connection, in autocommit, the statement prepared. Two processes, each with half of
the events; the rows are parsed before the clock starts, as a service has them.

    BENCH_PEER=settings.json python psycopg_service.py fill | work
"""

from __future__ import annotations

import json
import os
import sys
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

SETTINGS = json.loads(Path(os.environ["BENCH_PEER"]).read_text())


def publish(number: int) -> None:
    rows = _rows(number)
    names = list(rows[0])
    columns, values = ", ".join(names), ", ".join(["%s"] * len(names))
    changes = ", ".join(f"{name} = excluded.{name}" for name in names if name != "task_id")
    upsert = f"INSERT INTO peers.tasks ({columns}) VALUES ({values}) ON CONFLICT (task_id) DO UPDATE SET {changes}"
    with psycopg.connect(SETTINGS["database_url"], autocommit=True) as connection:
        for row in rows:
            connection.execute(upsert, list(row.values()), prepare=True)


def _rows(number: int) -> list[dict[str, Any]]:
    lines = Path(SETTINGS["rows"]).read_text().splitlines()
    rows = [json.loads(line) for line in lines[number :: SETTINGS["processes"]]]
    return [row | {"metadata": Jsonb(row["metadata"])} for row in rows]


if __name__ == "__main__" and sys.argv[1] == "work":
    context = get_context("spawn")
    processes = [context.Process(target=publish, args=(number,)) for number in range(SETTINGS["processes"])]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
