"""The fixtures that every other test stands on."""

from __future__ import annotations

import psycopg
import redis
from kombu.connection import Connection

from penstock_worker.stack.process import is_alive
from tests.producing import eventually
from tests.servers.databases import PostgresServer
from tests.servers.rabbitmq import RabbitServer
from tests.servers.valkey import ValkeyServer


def test_a_database_is_empty_and_the_tests_own(postgres_server: PostgresServer, empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("CREATE TABLE only_here (id int)")
    other = postgres_server.create_database()
    with psycopg.connect(other) as connection:
        assert connection.execute("SELECT to_regclass('only_here')").fetchone() == (None,)
    postgres_server.drop_database(other)


def test_a_killed_database_comes_back_with_what_was_committed(postgres_server: PostgresServer, empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS id")
    postgres_server.kill()
    postgres_server.start()
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("SELECT id FROM kept").fetchall() == [(1,)]


def test_a_paused_database_answers_after_it_resumes(postgres_server: PostgresServer) -> None:
    postgres_server.pause()
    try:
        # The signal has been sent; each process stops when it is scheduled next.
        eventually(lambda: {process.status() for process in postgres_server.processes()} - {"zombie"} == {"stopped"})
    finally:
        postgres_server.resume()
    assert postgres_server.is_ready()


def test_valkey_never_evicts_and_keeps_an_append_only_file(valkey_url: str) -> None:
    with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        settings = client.config_get("appendonly", "maxmemory-policy")
    assert settings == {"appendonly": "yes", "maxmemory-policy": "noeviction"}


def test_valkey_keeps_its_keys_over_a_kill_and_not_over_tests(valkey_server: ValkeyServer, valkey_url: str) -> None:
    with redis.Redis.from_url(valkey_url) as client:
        # By the second, as it is synced otherwise, a kill may take what was written last.
        client.config_set("appendfsync", "always")
        client.set("kept", "yes")
        valkey_server.kill()
        valkey_server.start()
        assert client.get("kept") == b"yes"
        valkey_server.empty()
        assert client.get("kept") is None


def test_a_message_goes_through_each_broker_also_after_its_end(
    broker_url: str, broker_server: ValkeyServer | RabbitServer
) -> None:
    _round_trip(broker_url)
    _end(broker_server)
    broker_server.start()
    _round_trip(broker_url)


def test_nothing_of_a_database_stays_after_its_end(postgres_server: PostgresServer) -> None:
    _end(postgres_server)
    postgres_server.start()


def _end(server: ValkeyServer | RabbitServer | PostgresServer) -> None:
    processes = server.processes()
    server.kill()
    assert [process for process in processes if is_alive(process)] == []


def _round_trip(url: str) -> None:
    with Connection(url) as connection, connection.SimpleQueue("round-trip") as queue:
        queue.put({"n": 1})
        message = queue.get(timeout=60)
        message.ack()
        assert message.payload == {"n": 1}


def test_what_events_say_is_for_the_owners_eyes(valkey_server: ValkeyServer) -> None:
    """Valkey writes its files for everybody to read, and what a server logs may quote a row."""
    assert valkey_server.folder.stat().st_mode & 0o077 == 0
    assert valkey_server.log.stat().st_mode & 0o077 == 0
