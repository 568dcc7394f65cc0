"""The exporter over real servers: the right figures after known events, and what is left of them while one of both is away."""

from __future__ import annotations

import json
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from kombu import Connection
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from penstock_producers import Producer
from penstock_schemas.metrics import METRICS
from penstock_schemas.records.scheduler import SchedulerPipeline
from penstock_schemas.topology import queues
from penstock_schemas.wire import QUEUE
from penstock_worker.exporter import asked
from penstock_worker.exporter.collector import Exporter, exporter_of
from penstock_worker.settings import Settings
from penstock_worker.stack.ports import find_free_port
from penstock_worker.store import measures
from penstock_worker.store.schedule import LEADER_LOCK
from tests.servers.databases import PostgresServer, database_of
from tests.servers.process import LocalProcess
from tests.servers.rabbitmq import RabbitServer
from tests.servers.valkey import ValkeyServer

#: A port on which nobody listens: connections are refused at once.
NO_BROKER = "redis://127.0.0.1:1/0"
DATABASE_METRICS = {
    one.name
    for one in METRICS
    if one.process == "exporter" and not one.name.startswith(("penstock_exporter", "penstock_queue", "penstock_redis"))
}

Scraped = dict[tuple[str, ...], float]
Scrape = Callable[..., Scraped]


@pytest.fixture
def scrape(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scrape]:
    """Scrapes exporters of given addresses, each time with a look: by metric and the values of its labels."""
    monkeypatch.setattr(asked, "KEEP_S", 0.0)
    exporters: dict[tuple[str, str], Exporter] = {}

    def look(database: str, broker: str = NO_BROKER) -> Scraped:
        if (database, broker) not in exporters:
            exporters[database, broker] = exporter_of(Settings(database_url=database, broker_url=broker))
        registry = CollectorRegistry()
        registry.register(exporters[database, broker])
        text = generate_latest(registry).decode()
        families = text_string_to_metric_families(text)
        return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}

    yield look
    for exporter in exporters.values():
        exporter.close()


@pytest.fixture
def person(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def of(found: Scraped, name: str) -> dict[Any, float]:
    """A metric's numbers by the values of its labels, in the order of the labels' names."""
    return {key[1] if len(key) == 2 else key[1:]: value for key, value in found.items() if key[0] == name}


def names(found: Scraped) -> set[str]:
    return {key[0] for key in found}


def fill(person: psycopg.Connection[Any]) -> None:
    """Something of everything; times are by the server's clock, as the exporter sees it."""
    person.execute(
        "INSERT INTO penstock.dead_letters (id, state, reason, detail, fingerprint, payload, at)"
        " SELECT gen_random_uuid(), CASE WHEN i <= 3 THEN 'held' ELSE 'dead' END, 'r', 'd', 'f' || i % 4, '',"
        " now() - i * interval '1 hour' FROM generate_series(1, 10) AS i"
    )
    runs = (
        ("audit", "done", 300, 2.5, '{"gaps": {"missing": 41}, "epochs_missing": 2}'),
        ("audit", "failed", 100, 1.5, "{}"),
        ("backup", "died", 900, None, "{}"),
        ("held", "failed", 60, 0.5, "{}"),
        ("held", "done", 30, 0.25, "{}"),
        ("held", "running", 1, None, None),
    )
    person.cursor().executemany(
        "INSERT INTO penstock.maintenance_runs (job, started_by, state, started_at, seconds, counts)"
        " VALUES (%s, 'test', %s, now() - %s * interval '1 second', %s, %s)",
        runs,
    )
    person.execute(
        "INSERT INTO penstock.maintenance_runs (job, started_by, state, is_dry_run, seconds, counts)"
        " VALUES ('audit', 'test', 'done', true, 9, '{\"gaps\": {\"missing\": 99}}')"
    )
    person.execute(
        "INSERT INTO penstock.schedule (name, task, every_s, next_run, is_enabled) VALUES"
        " ('audit', 't', 300, now() + interval '1 hour', true), ('held', 't', 30, now() - interval '1 hour', true),"
        " ('backup', 't', 30, now() - interval '1 hour', false), ('new', 't', 30, NULL, true)"
    )
    person.execute(
        "INSERT INTO penstock.producers (epoch, producer, high_water, is_closed, last_seen) SELECT gen_random_uuid(), 'web', 1,"
        " false, now() - i * interval '2 minutes' FROM generate_series(0, 9) AS i"
    )
    person.execute(
        "INSERT INTO penstock.recoveries (type, key, last_activity, checked_at, claimed_until, ended_at, outcome) VALUES"
        " ('a.a', '[1]', now(), now(), NULL, NULL, NULL), ('a.a', '[2]', now(), now(), now() - interval '1 hour', NULL, NULL),"
        " ('a.a', '[3]', now(), now(), now() + interval '1 hour', NULL, NULL), ('b.b', '[1]', now(), now(), NULL, NULL, NULL),"
        " ('b.b', '[2]', now(), now(), NULL, now(), 'completed')"
    )
    person.execute(
        "INSERT INTO penstock.table_sizes (table_name, at, bytes, rows) VALUES ('a.a', '2026-01-01', 1, 1),"
        " ('gone', '2026-01-01', 7, 1), ('database', '2026-01-01', 9, 1), ('a.a', '2026-01-02', 2, 1),"
        " ('database', '2026-01-02', 9, 1)"
    )


def test_the_figures_of_a_database(database_url: str, person: psycopg.Connection[Any], scrape: Scrape) -> None:
    fill(person)
    person.execute(f"SELECT pg_advisory_lock({LEADER_LOCK[0]}, {LEADER_LOCK[1]})")
    found = scrape(database_url)
    assert of(found, "penstock_exporter_up") == {"database": 1, "broker": 0}
    assert names(found) == DATABASE_METRICS | {"penstock_exporter_up", "penstock_exporter_look_seconds"}
    hour = pytest.approx(3600, abs=300)
    now = time.time()
    assert of(found, "penstock_dead_letters") == {"dead": 7, "held": 3}
    assert of(found, "penstock_dead_letters_oldest_seconds") == {
        "dead": pytest.approx(36_000, abs=300),
        "held": pytest.approx(10_800, abs=300),
    }
    assert (of(found, "penstock_ledger_missing_events"), of(found, "penstock_ledger_missing_producers")) == ({(): 41}, {(): 2})
    assert of(found, "penstock_job_overdue_seconds") == {"audit": 0, "held": hour}
    assert of(found, "penstock_job_failed") == {"audit": 1, "backup": 1, "held": 0}
    assert of(found, "penstock_job_last_seconds") == {"audit": 1.5, "held": 0.25}
    assert of(found, "penstock_job_last_success_timestamp_seconds") == {
        "audit": pytest.approx(now - 300, abs=60),
        "held": pytest.approx(now - 30, abs=60),
    }
    assert of(found, "penstock_job_last_start_timestamp_seconds")["held"] == pytest.approx(now - 1, abs=60)
    assert of(found, "penstock_producers_seen") == {(): 3}
    assert of(found, "penstock_incomplete_records") == {("unclaimed", "a.a"): 2, ("claimed", "a.a"): 1, ("unclaimed", "b.b"): 1}
    assert of(found, "penstock_table_bytes") == {"a.a": 2}
    assert (of(found, "penstock_beat_leader"), of(found, "penstock_schema_current")) == ({(): 1}, {(): 1})
    person.execute("SELECT pg_advisory_unlock_all()")
    assert of(scrape(database_url), "penstock_beat_leader") == {(): 0}


def test_what_the_database_does(database_url: str, person: psycopg.Connection[Any], scrape: Scrape) -> None:
    """One session sleeps in a statement, one waits for its lock."""
    person.execute("CREATE TABLE public.fought_for ()")
    before = scrape(database_url)
    with psycopg.connect(database_url) as holder, psycopg.connect(database_url) as waiter:
        holder.execute("LOCK TABLE public.fought_for")
        waiting = threading.Thread(target=_wait_for_lock, args=[waiter])
        waiting.start()
        deadline = time.monotonic() + 60
        while (found := scrape(database_url))[("penstock_database_slow_queries",)] != 1:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert of(found, "penstock_database_lock_waits") == {(): 1}
        assert of(found, "penstock_database_oldest_transaction_seconds")[()] >= 1
        assert of(found, "penstock_database_connections") == {"active": 1, "idle": 1, "idle in transaction": 1}
        waiter.cancel_safe()
        waiting.join()
    limit = person.execute("SELECT current_setting('max_connections')::int - 3").fetchone()
    assert of(found, "penstock_database_connections_limit") == {(): limit[0]}  # type: ignore[index]
    commits = [of(each, "penstock_database_transactions_total")["commit"] for each in (before, found)]
    assert 0 < commits[0] <= commits[1]
    assert of(before, "penstock_database_lock_waits") == {(): 0}


def _wait_for_lock(connection: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.errors.QueryCanceled):
        connection.execute("LOCK TABLE public.fought_for")


def test_a_connection_that_was_cut_meanwhile_is_no_outage(
    database_url: str, person: psycopg.Connection[Any], scrape: Scrape
) -> None:
    scrape(database_url)
    person.execute("SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE application_name = 'penstock exporter'")
    assert of(scrape(database_url), "penstock_exporter_up")["database"] == 1


def test_a_role_that_may_only_read_does(
    database_url: str, person: psycopg.Connection[Any], postgres_server: PostgresServer, scrape: Scrape
) -> None:
    """All but what sessions of others do, which PostgreSQL hides from it."""
    fill(person)
    role = f"reader_{database_of(database_url)[-8:]}"
    person.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'read'")
    try:
        person.execute(f"GRANT USAGE ON SCHEMA penstock TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA penstock TO {role}")
        found = scrape(_as(database_url, role))
        hidden = {"penstock_database_slow_queries", "penstock_database_oldest_transaction_seconds"}
        assert DATABASE_METRICS - names(found) == hidden
        assert of(found, "penstock_database_connections")["hidden"] >= 1
        assert of(found, "penstock_dead_letters") == {"dead": 7, "held": 3}
        person.execute(f"REVOKE SELECT ON penstock.schedule FROM {role}")
        without = scrape(_as(database_url, role))
        assert names(found) - names(without) == {"penstock_job_overdue_seconds"}
    finally:
        person.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'")
        person.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def _as(url: str, role: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{role}:read@{rest.rpartition('@')[2]}"


def test_a_database_without_our_tables_is_up_and_not_current(empty_database_url: str, scrape: Scrape) -> None:
    found = scrape(empty_database_url)
    assert of(found, "penstock_exporter_up") == {"database": 1, "broker": 0}
    assert of(found, "penstock_schema_current") == {(): 0}
    assert of(found, "penstock_dead_letters") == {}
    assert of(found, "penstock_database_bytes")[()] > 0


def test_letters_are_estimated_by_what_the_server_has_seen_of_them(person: psycopg.Connection[Any]) -> None:
    fill(person)
    person.execute("ANALYZE penstock.dead_letters")
    (letters,) = [each for each in measures.MEASURES if each.name == "letters"]
    assert person.execute(letters.query.encode()).fetchall() == [("dead", 7, pytest.approx(7)), ("held", 3, pytest.approx(3))]


def publish(url: str, count: int, **given: Any) -> None:
    with Producer(url, name="web", batch_events=1) as producer:
        for number in range(count):
            producer.publish(SchedulerPipeline(name=f"p{number}"), **given)


def test_the_figures_of_redis(
    database_url: str, valkey_url: str, valkey_server: ValkeyServer, scrape: Scrape, caplog: pytest.LogCaptureFixture
) -> None:
    empty = scrape(database_url, valkey_url)
    assert of(empty, "penstock_queue_messages") == {"waiting": 0, "held": 0}
    assert of(empty, "penstock_queue_oldest_seconds") == {(): 0}
    began = time.time()
    publish(valkey_url, 3, occurred_at=datetime.now(UTC) - timedelta(days=400))
    with redis.Redis.from_url(valkey_url) as client:
        client.hset(f"{QUEUE}:leased", "tag", "a message")
        client.rpush(QUEUE, "a stranger's")
        found = scrape(database_url, valkey_url)
        waiting = client.llen(QUEUE)
        assert of(found, "penstock_queue_messages") == {"waiting": waiting, "held": 1}
        assert waiting >= 4
        assert 0 <= of(found, "penstock_queue_oldest_seconds")[()] <= time.time() - began + 1
        redis_names = {one.name for one in METRICS if one.name.startswith("penstock_redis")}
        assert redis_names - names(found) == set()
        assert of(found, "penstock_redis_evicts") == {(): 0}
        assert of(found, "penstock_redis_persists") == {(): float(client.info("persistence")["aof_enabled"])}
        assert "penstock_queue_consumers" not in names(found)

        client.acl_setuser("looker", enabled=True, passwords=["+read"], commands=["+ping", "+llen", "+hlen"], keys=["*"])
        try:
            few = [scrape(database_url, _as(valkey_url, "looker")) for _ in "12"][-1]
        finally:
            client.acl_deluser("looker")
    refused = [record.getMessage().partition(":")[0] for record in caplog.records if "Redis says" in record.getMessage()]
    assert refused == ["oldest message", "server"]
    assert of(few, "penstock_exporter_up")["broker"] == 1
    assert names(few) - DATABASE_METRICS == {
        "penstock_exporter_up",
        "penstock_exporter_look_seconds",
        "penstock_queue_messages",
        "penstock_redis_ping_seconds",
    }


@pytest.mark.rabbitmq
def test_the_figures_of_rabbitmq(database_url: str, rabbitmq_url: str, scrape: Scrape) -> None:
    assert of(scrape(database_url, rabbitmq_url), "penstock_queue_messages") == {"waiting": 0}
    with Connection(rabbitmq_url) as connection, connection.channel() as channel:
        for name, arguments in queues(QUEUE).items():
            channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
            channel.basic_publish(channel.prepare_message("x", content_encoding="utf-8"), routing_key=name)
        deadline = time.monotonic() + 60
        while (found := scrape(database_url, rabbitmq_url))[
            ("penstock_queue_messages", "waiting")
        ] < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert of(found, "penstock_queue_messages") == {"waiting": 2}
        assert of(found, "penstock_queue_consumers") == {(): 0}
        channel.basic_qos(0, 1, False)
        channel.basic_consume(QUEUE, callback=lambda _message: None)
        assert of(scrape(database_url, rabbitmq_url), "penstock_queue_consumers") == {(): 1}
    assert "penstock_queue_oldest_seconds" not in names(found)


def test_a_frozen_database_hides_no_broker(
    database_url: str, valkey_url: str, postgres_server: PostgresServer, scrape: Scrape
) -> None:
    scrape(database_url, valkey_url)  # so that a connection is open, which nobody will answer on
    postgres_server.pause()
    try:
        found = scrape(database_url, valkey_url)
    finally:
        postgres_server.resume()
    assert of(found, "penstock_exporter_up") == {"database": 0, "broker": 1}
    assert names(found) & DATABASE_METRICS == set()
    assert of(found, "penstock_queue_messages") == {"waiting": 0, "held": 0}
    _wait_until_up(lambda: scrape(database_url, valkey_url), "database")


def test_a_frozen_broker_hides_no_database(
    database_url: str, broker_url: str, broker_server: ValkeyServer | RabbitServer, scrape: Scrape
) -> None:
    scrape(database_url, broker_url)
    broker_server.pause()
    try:
        found = scrape(database_url, broker_url)
    finally:
        broker_server.resume()
    assert of(found, "penstock_exporter_up") == {"database": 1, "broker": 0}
    assert not any(name.startswith(("penstock_queue", "penstock_redis")) for name in names(found))
    assert of(found, "penstock_schema_current") == {(): 1}
    _wait_until_up(lambda: scrape(database_url, broker_url), "broker")


def _wait_until_up(look: Callable[[], Scraped], name: str) -> None:
    deadline = time.monotonic() + 120
    while not of(look(), "penstock_exporter_up")[name]:
        assert time.monotonic() < deadline


def test_the_command_serves_until_it_is_told_to_end(database_url: str, valkey_url: str, tmp_path: Path) -> None:
    port = find_free_port()
    environment = {
        "PENSTOCK_DATABASE_URL": database_url,
        "PENSTOCK_BROKER_URL": valkey_url,
        "PENSTOCK_EXPORTER_PORT": str(port),
        "PENSTOCK_LOG_FORMAT": "json",
    }
    process = LocalProcess(
        "exporter",
        [sys.executable, "-m", "penstock_worker", "exporter"],
        log=tmp_path / "exporter.log",
        env=environment,
        cwd=tmp_path,
        ready=lambda process: "the exporter listens on" in process.recent_log(),
    )
    process.start()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            told = answer.read().decode()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=60) as answer:
            ready = json.loads(answer.read())
        process.stop()
    finally:
        process.clean_up()
    assert 'penstock_exporter_up{of="broker"} 1.0' in told
    assert ready == {"ready": True, "reasons": []}
    assert process.exit_code == 0
    assert [json.loads(line)["action"] for line in process.logs().splitlines()] == ["exporter_listens"]
