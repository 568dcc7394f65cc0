"""
celery-batches: one Celery task an event, run in batches, each an upsert of many rows with SQLAlchemy.

As its documentation advises: the prefetch multiplier is no smaller than `flush_every`, else batches never fill. It pins Celery
below 5.7, so it has an environment of its own. An exception in a batch loses the batch, which costs nothing here. Two children,
each with one connection that stays open; psycopg sends the rows of a batch in one pipeline.

    BENCH_PEER=settings.json python celery_batches.py fill | work
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

# This file has the package's name, and its folder comes first.
sys.path = [folder for folder in sys.path if Path(folder or ".").resolve() != Path(__file__).parent]
from celery_batches import Batches, SimpleRequest  # noqa: E402

SETTINGS = json.loads(Path(os.environ["BENCH_PEER"]).read_text())
QUEUE = "peer.batches"
FLUSH_EVERY = 1_000

app = Celery("peer", broker=SETTINGS["broker_url"])
app.conf.update(
    task_default_queue=QUEUE,
    task_ignore_result=True,
    worker_prefetch_multiplier=2 * FLUSH_EVERY,
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


@app.task(name="peer.store", base=Batches, flush_every=FLUSH_EVERY, flush_interval=0.5)
def store(requests: list[SimpleRequest]) -> None:
    with engine().begin() as connection:
        connection.execute(statement(), [request.args[0] for request in requests])


def fill() -> None:
    with app.producer_pool.acquire() as producer, Path(SETTINGS["rows"]).open() as lines:
        for line in lines:
            store.apply_async((json.loads(line),), producer=producer)


if __name__ == "__main__":
    if sys.argv[1] == "fill":
        fill()
    else:
        app.worker_main(["worker", "--loglevel=WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat"])
