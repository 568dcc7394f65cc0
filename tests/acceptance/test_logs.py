"""Faults of every kind, with marked contents and passwords: neither is in a log of a worker, its children, or beat."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from celery import Celery

from penstock_producers import Producer
from penstock_producers.transports.redis import kombu_message
from penstock_schemas.records.scheduler import SchedulerJob, SchedulerPipeline
from penstock_schemas.wire import QUEUE, Envelope, encode_event, new_epoch
from penstock_worker.app import MAINTENANCE_QUEUE
from penstock_worker.settings import Settings
from penstock_worker.stack.commands import beat_command
from tests.acceptance.witness import until
from tests.servers.celery_worker import Failpoints, WorkerProcess
from tests.servers.databases import database_of
from tests.servers.process import LocalProcess
from tests.servers.valkey import ValkeyServer

pytestmark = pytest.mark.acceptance

#: In every event, and in what else strangers send.
CONTENT = "CONTENT-of-Ada"
#: The worker's password of the database; signs that a URL escapes are in it.
PASSWORD = "pass/word of the worker"
IN_URL = "pass%2Fword%20of%20the%20worker"

TASKS = """
from celery import shared_task

@shared_task(name="shop.fails")
def fails(name):
    raise ValueError(f"no such shop: {name!r}")
"""

#: What PostgreSQL says of a row when it refuses it, by the error's class: a constraint, a value, a COPY.
OBSTACLES = """
ALTER TABLE scheduler.pipelines ADD CONSTRAINT refused CHECK (description <> 'constraint');
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.description = 'value' THEN
        RAISE EXCEPTION USING ERRCODE = '22P02', MESSAGE = format('invalid input syntax for type shop: "%s"', NEW.name),
                              DETAIL = NEW.name;
    ELSIF NEW.description = 'again' AND nextval('public.tries') < 3 THEN
        RAISE EXCEPTION USING ERRCODE = '40001', MESSAGE = 'could not serialize access', DETAIL = NEW.name;
    END IF;
    RETURN NEW;
END $$;
CREATE SEQUENCE public.tries;
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON scheduler.pipelines FOR EACH ROW EXECUTE FUNCTION public.refuse();
ALTER TABLE scheduler.jobs DROP COLUMN cron_expr;
"""


@pytest.fixture
def broker_url(valkey_url: str) -> str:
    return valkey_url


@pytest.fixture
def person(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def role(person: psycopg.Connection[Any], database_url: str) -> Iterator[str]:
    name = f"worker_{database_of(database_url)[-8:]}"
    person.execute(f"CREATE ROLE {name} SUPERUSER LOGIN PASSWORD '{PASSWORD}'")
    yield name
    person.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{name}'")
    person.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.fixture
def worker(
    role: str,
    database_url: str,
    new_worker: Callable[[], WorkerProcess],
    worker_options: dict[str, object],
    tmp_path: Path,
) -> WorkerProcess:
    (tmp_path / "shop_tasks.py").write_text(TASKS)
    place = database_url.rpartition("@")[2]
    worker_options |= {
        "database_url": f"postgresql://{role}:{IN_URL}@{place}",
        "concurrency": 1,
        "log_format": "json",
        "tasks": "shop_tasks",
    }
    worker = new_worker()
    worker.start()
    return worker


@pytest.fixture
def beat(worker: WorkerProcess, tmp_path: Path) -> Iterator[LocalProcess]:
    """Not started yet; it has the worker's settings."""
    command = beat_command(Settings(log_format="json"))
    beat = LocalProcess("beat", command, log=tmp_path / "beat.log", env=worker._env, cwd=tmp_path)
    yield beat
    beat.clean_up()


def publish(url: str, *events: bytes) -> None:
    with redis.Redis.from_url(url) as client:
        epoch = new_epoch()
        for seq, event in enumerate(events):
            client.lpush(QUEUE, kombu_message(Envelope("web", epoch, seq, [event]), QUEUE))


def pipeline(description: str) -> SchedulerPipeline:
    return SchedulerPipeline(name=f"{CONTENT} {description}", description=description, config={"of": CONTENT})


@pytest.mark.parametrize("failpoints", ["before_commit=kill"], indirect=True)
def test_no_log_has_contents_or_passwords(
    worker: WorkerProcess,
    beat: LocalProcess,
    role: str,
    failpoints: Failpoints,
    valkey_url: str,
    valkey_server: ValkeyServer,
    person: psycopg.Connection[Any],
) -> None:
    def letters() -> int:
        ((number,),) = person.execute("SELECT count(*) FROM penstock.dead_letters").fetchall()
        return int(number)

    def said(action: str) -> bool:
        return f'"action": "{action}"' in worker.logs()

    # What cannot be stored, and what the database refuses.
    person.execute(OBSTACLES)
    data = json.dumps({"name": CONTENT, "config": CONTENT}).encode()
    publish(
        valkey_url,
        encode_event("scheduler.pipeline", "upsert", 1, data),
        encode_event(f"no.{CONTENT}".lower(), "upsert", 1, data),
        CONTENT.encode(),
    )
    with Producer(valkey_url, name="web") as producer:
        for what in ("constraint", "value", "again", "fine"):
            producer.publish(pipeline(what))
        producer.publish(SchedulerJob(id=CONTENT, cron_expr=CONTENT))
    until(lambda: letters() == 6)
    until(lambda: said("table_held") and said("batch_retried"))

    # Strangers in the queue of tasks, and a task that fails with what it was given.
    with Celery(broker=valkey_url, set_as_current=False) as tasks:
        tasks.send_task("shop.unknown", args=[CONTENT], queue=MAINTENANCE_QUEUE)
        tasks.send_task("shop.fails", args=[CONTENT], kwargs={}, queue=MAINTENANCE_QUEUE)
        with tasks.connection_for_write() as connection:
            connection.SimpleQueue(MAINTENANCE_QUEUE).put({"of": CONTENT})
    until(lambda: "unregistered task" in worker.logs() and "no such shop" in worker.logs())

    # A child that dies, a password that is wrong, a broker that is gone.
    failpoints.arm("before_commit")
    with Producer(valkey_url, name="web") as producer:
        producer.publish(pipeline("of the dead"))
    until(lambda: said("reader_lost"))
    person.execute(f"ALTER ROLE {role} PASSWORD 'another'")
    person.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'")
    beat.start()
    with Producer(valkey_url, name="web") as producer:
        producer.publish(pipeline("waits"))
    until(lambda: all("password authentication failed" in process.logs() for process in (worker, beat)))
    person.execute(f"ALTER ROLE {role} PASSWORD '{PASSWORD}'")
    until(lambda: said("resumed"))
    valkey_server.kill()
    until(lambda: "Connection to broker lost" in worker.logs() or "connection to broker lost" in worker.logs())
    valkey_server.start()
    beat.stop()
    worker.stop()

    for process in (worker, beat):
        lines = lines_of(process)
        assert {"timestamp", "level", "logger", "event", "host", "pid", "process"} <= set.intersection(*map(set, lines))
        for secret in (CONTENT, CONTENT.lower(), PASSWORD, IN_URL, _password_of(valkey_url)):
            assert [line for line in lines if secret in json.dumps(line)] == []
    processes = {(line["process"], line["worker"]) for line in lines_of(worker) if "worker" in line}
    assert ("MainProcess", worker.hostname) in processes
    assert any(name.startswith("ForkPoolWorker") for name, _ in processes)


def lines_of(process: LocalProcess) -> list[dict[str, Any]]:
    """All are JSON, but for what Celery writes past every log while it handles a signal."""
    lines = [line for line in process.logs().splitlines() if line and not line.startswith("worker: Warm shutdown")]
    return [json.loads(line) for line in lines]


def _password_of(url: str) -> str:
    return url.partition("://")[2].partition("@")[0].partition(":")[2]
