"""
FastStream with a batch subscriber on a Redis list, and asyncpg.

As their documentations advise: `ListSub(batch=True)` with a large `max_records` and a short polling interval; asyncpg's
`executemany` with one prepared statement, in a transaction; uvloop; no log of each batch. Two processes. What is popped is gone
when the process dies: it promises less than Penstock.

    BENCH_PEER=settings.json python faststream_asyncpg.py fill | work
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import redis
import uvloop
from faststream import FastStream
from faststream.redis import ListSub, RedisBroker

SETTINGS = json.loads(Path(os.environ["BENCH_PEER"]).read_text())
QUEUE = "peer.faststream"
MAX_RECORDS = 1_000

broker = RedisBroker(SETTINGS["broker_url"], logger=None)
app = FastStream(broker, logger=None)
state: dict[str, Any] = {}


@app.on_startup
async def connect() -> None:
    pool = await asyncpg.create_pool(SETTINGS["database_url"], min_size=1, max_size=1)
    names = await pool.fetch("SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = 'peers'")
    state["pool"] = pool
    state["times"] = [row[0] for row in names if row[1].startswith("timestamp")]
    state["names"] = [row[0] for row in names]
    columns = ", ".join(state["names"])
    values = ", ".join(f"${place}" for place in range(1, len(names) + 1))
    changes = ", ".join(f"{name} = excluded.{name}" for name in state["names"] if name != "task_id")
    state["upsert"] = f"INSERT INTO peers.tasks ({columns}) VALUES ({values}) ON CONFLICT (task_id) DO UPDATE SET {changes}"


@broker.subscriber(list=ListSub(QUEUE, batch=True, max_records=MAX_RECORDS, polling_interval=0.01))
async def store(rows: list[dict[str, Any]]) -> None:
    values = [_values(row) for row in rows]
    async with state["pool"].acquire() as connection, connection.transaction():
        await connection.executemany(state["upsert"], values)


def _values(row: dict[str, Any]) -> list[Any]:
    for name in state["times"]:
        row[name] = row[name] and datetime.fromisoformat(row[name])
    row["metadata"] = json.dumps(row["metadata"])
    return [row[name] for name in state["names"]]


def fill() -> None:
    with redis.Redis.from_url(SETTINGS["broker_url"]) as client, Path(SETTINGS["rows"]).open() as lines:
        pipeline = client.pipeline(transaction=False)
        for line in lines:
            pipeline.rpush(QUEUE, line.strip())
        pipeline.execute()


def work() -> None:
    """Processes of our own making: the command line's supervisor would outlive a kill."""
    own = [sys.executable, __file__, "one"]
    others = [subprocess.Popen(own) for _ in range(SETTINGS["processes"] - 1)]
    try:
        uvloop.run(app.run())
    finally:
        for other in others:
            other.terminate()
            other.wait()


if __name__ == "__main__":
    if sys.argv[1] == "fill":
        fill()
    elif sys.argv[1] == "work":
        work()
    else:
        uvloop.run(app.run())
