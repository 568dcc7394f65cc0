"""A producer in the tasks of a service's own Celery worker, whose children are recycled and end without atexit."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import redis
from kombu import Connection

from penstock_schemas.wire import QUEUE
from tests.producing import eventually
from tests.servers.process import LocalProcess

#: Lingering far longer than the test: only the end of a child sends what its task published.
APPLICATION = """
import os
from celery import Celery
from penstock_producers import Producer
from tests.records import Pair

app = Celery("service", broker=os.environ["BROKER"])
app.conf.update(task_default_queue="service", worker_hijack_root_logger=False)
producer = Producer(os.environ["BROKER"], name="service", linger_s=1000)
producer.publish(Pair(tenant="parent", number=0))

@app.task(name="work")
def work(number):
    producer.publish(Pair(tenant="child", number=number))
"""


def test_recycled_children_send_their_tail(valkey_url: str, tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(APPLICATION)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2]), *filter(None, sys.path)])
    worker = LocalProcess(
        "service",
        [sys.executable, "-m", "celery", "-A", "service", "worker", "-c", "1", "--max-tasks-per-child", "1", "-l", "INFO"],
        log=tmp_path / "service.log",
        env={"BROKER": valkey_url, "PYTHONPATH": path},
        cwd=tmp_path,
        ready=lambda process: "ready." in process.logs(),
    )
    try:
        worker.start()
        with Connection(valkey_url) as connection, connection.Producer(serializer="json") as publisher:
            for number in range(3):
                task = {"id": f"task-{number}", "task": "work", "lang": "py", "argsrepr": "", "kwargsrepr": ""}
                publisher.publish(
                    [[number], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}],
                    headers=task,
                    exchange="",
                    routing_key="service",
                    correlation_id=task["id"],
                )
        # Two have ended, each replaced by the next; the third's task is done, its child waits to be replaced.
        eventually(lambda: sum(body.get("closed", False) for body in read(valkey_url)) >= 3, within_s=120)
        worker.stop()
        eventually(lambda: "parent" in tenants(valkey_url), within_s=60)
    finally:
        worker.clean_up()
    assert tenants(valkey_url) == {"parent": [0], "child": [0, 1, 2]}
    assert len({body["epoch"] for body in read(valkey_url)}) == 4


def read(url: str) -> list[dict[str, Any]]:
    with redis.Redis.from_url(url) as client, Connection(url) as connection, connection.channel() as channel:
        return [json.loads(channel.Message(json.loads(raw), channel).body) for raw in client.lrange(QUEUE, 0, -1)]


def tenants(url: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for body in read(url):
        for event in body["events"]:
            found.setdefault(event["data"]["tenant"], []).append(event["data"]["number"])
    return {tenant: sorted(numbers) for tenant, numbers in found.items()}
