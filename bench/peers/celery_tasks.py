"""
One Celery task an event, each an upsert with SQLAlchemy.

As Celery's guide "Optimizing" advises for many short tasks: a high prefetch multiplier (64), no results, no task events, and
messages acknowledged before they run, which is faster than what Penstock promises. Four children on two cores, for each waits
for its COMMITs; each has one connection that stays open. SQLAlchemy Core, whose statement is compiled once.

    BENCH_PEER=settings.json python celery_tasks.py fill | work
"""

from __future__ import annotations

import json
import os
import sys
from functools import cache
from pathlib import Path

import sqlalchemy as sa
from celery import Celery
from sqlalchemy.dialects.postgresql import insert

SETTINGS = json.loads(Path(os.environ["BENCH_PEER"]).read_text())
QUEUE = "peer.celery"

app = Celery("peer", broker=SETTINGS["broker_url"])
app.conf.update(
    task_default_queue=QUEUE,
    task_ignore_result=True,
    worker_prefetch_multiplier=64,
    worker_concurrency=SETTINGS["processes"],
    worker_send_task_events=False,
    worker_hijack_root_logger=False,
)


@cache
def engine() -> sa.Engine:
    return sa.create_engine(SETTINGS["database_url"].replace("postgresql://", "postgresql+psycopg://"), pool_size=1)


@cache
def statement() -> sa.Insert:
    table = sa.Table("tasks", sa.MetaData(), autoload_with=engine(), schema="peers")
    upsert = insert(table)
    values = {column.name: upsert.excluded[column.name] for column in table.columns if not column.primary_key}
    return upsert.on_conflict_do_update(index_elements=["task_id"], set_=values)


@app.task(name="peer.store")
def store(row: dict[str, object]) -> None:
    with engine().begin() as connection:
        connection.execute(statement(), row)


def fill() -> None:
    with app.producer_pool.acquire() as producer, Path(SETTINGS["rows"]).open() as lines:
        for line in lines:
            store.apply_async((json.loads(line),), producer=producer)


if __name__ == "__main__":
    if sys.argv[1] == "fill":
        fill()
    else:
        app.worker_main(["worker", "--loglevel=WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat"])
