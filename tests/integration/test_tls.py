"""
TLS on every connection: the right certificate of the right name works, everything else is refused and says why.

Certificates are for localhost, so that 127.0.0.1 is a wrong name; servers want a certificate of the client's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from kombu import pools
from kombu.asynchronous.hub import Hub
from redis.backoff import ExponentialWithJitterBackoff

from penstock_migrations.session import open_connection
from penstock_producers import Producer
from penstock_producers.transports import broker_for, transport_for
from penstock_producers.transports.tls_errors import say_tls_error
from penstock_schemas.wire import Envelope
from penstock_worker.app import create_app
from penstock_worker.ask_workers import open_workers
from penstock_worker.cli import status
from penstock_worker.cli.replace import check_broker_tls
from penstock_worker.errors import ConfigurationError
from penstock_worker.exporter.rabbitmq import RabbitLook
from penstock_worker.exporter.redis_broker import RedisLook
from penstock_worker.ingest.amqp_answers import AmqpAnswers
from penstock_worker.ingest.amqp_source import AmqpSource
from penstock_worker.ingest.depth import depth_of
from penstock_worker.ingest.redis_source import RedisSource
from penstock_worker.maintenance.announce import open_announcer
from penstock_worker.queue_look import waiting_messages
from penstock_worker.settings import Settings, load_settings
from penstock_worker.stack.checks import check_broker, check_database
from penstock_worker.store.backup.programs import as_words
from penstock_worker.store.backup.scratch import connect_to_server
from penstock_worker.store.connection import connect_with
from penstock_worker.store.measures import open_measuring
from tests.commands import penstock_here
from tests.producing import eventually
from tests.records import Pair
from tests.servers.databases import PostgresServer, database_of
from tests.servers.rabbitmq import RabbitServer
from tests.servers.tls import Authority, TlsFront
from tests.servers.valkey import ValkeyServer

RIGHT, WRONG = "@localhost:", "@127.0.0.1:"

pytestmark = pytest.mark.usefixtures("fresh_connections", "impatient")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kombu lets redis-py try three times more, with pauses; here nothing gets better by waiting."""
    monkeypatch.setattr(ExponentialWithJitterBackoff, "compute", lambda _self, _failures: 0)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One that no server was certified by, nor knows."""
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def valkey_front(valkey_server: ValkeyServer, authority: Authority) -> Iterator[TlsFront]:
    with closing(TlsFront(valkey_server.endpoint.port, authority)) as front:
        yield front


@pytest.fixture(scope="module")
def postgres_front(postgres_server: PostgresServer, authority: Authority) -> Iterator[TlsFront]:
    with closing(TlsFront(postgres_server.endpoint.port, authority, is_postgres=True)) as front:
        yield front


def at_port(url: str, scheme: str, port: int) -> str:
    """The same by TLS."""
    parts = urlsplit(url)
    return f"{scheme}://{parts.netloc.rpartition('@')[0]}{RIGHT}{port}{parts.path}"


@pytest.fixture(params=["redis", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def broker(request: pytest.FixtureRequest) -> dict[str, str]:
    """The settings of each broker in turn."""
    if request.param == "redis":
        front, authority = request.getfixturevalue("valkey_front"), request.getfixturevalue("authority")
        url = at_port(request.getfixturevalue("valkey_url"), "rediss", front.port)
    else:
        server: RabbitServer = request.getfixturevalue("rabbitmq_server")
        authority = server.authority
        url = at_port(request.getfixturevalue("rabbitmq_url"), "amqps", server.tls_port)
    return {"broker_url": url, **authority.settings("broker")}


@pytest.fixture
def database(database_url: str, postgres_front: TlsFront, authority: Authority) -> dict[str, str]:
    return {"database_url": at_port(database_url, "postgresql", postgres_front.port), **authority.settings("database")}


# -- every way to the broker


def by_producer(settings: Settings) -> None:
    with closing(transport_for(settings.broker, settings.queue, 5)) as transport:
        transport.send([Envelope("tls", uuid4(), 0)], lambda _envelope: None)


def by_mailbox(settings: Settings) -> None:
    with closing(broker_for(settings.broker, settings.queue, 5).mailbox()) as mailbox:
        mailbox.receive(0.01)


def by_celery(settings: Settings) -> None:
    """The connections of worker, beat, events and Flower."""
    app = create_app(settings)
    try:
        for connection in (app.connection_for_read(), app.connection_for_write()):
            with connection:
                assert connection.ensure_connection(max_retries=1, interval_start=0, timeout=5).default_channel
    finally:
        app.close()


def by_question(settings: Settings) -> None:
    pools.reset()  # kombu's know connections by host and password only
    with open_workers(settings) as workers:
        assert workers.ask("ping", timeout_s=0.01) == {}


def by_source(settings: Settings) -> None:
    hub = Hub()
    is_redis = settings.broker.startswith("redis")
    source = RedisSource(settings, hub.timer, "a") if is_redis else AmqpSource(settings, hub.timer, hub)
    try:
        source.start(lambda _deliveries: None, lambda: True)
    finally:
        source.close()
        hub.close()


def by_answers(settings: Settings) -> None:
    """On Redis they go over the source's connection."""
    if settings.broker.startswith("amqps"):
        with closing(AmqpAnswers(settings.broker)) as answers:
            answers._connect()
    else:
        by_source(settings)


def by_depth(settings: Settings) -> None:
    with closing(depth_of(settings)) as depth:
        if depth.ask() is None:
            check_broker_tls(settings)  # it does not say why
            pytest.fail("no answer")


def by_look(settings: Settings) -> None:
    assert waiting_messages(settings) >= 0


def by_announcer(settings: Settings) -> None:
    with open_announcer(settings) as announcer:
        announcer.announce("translation.session", "incomplete", {})


def by_status(settings: Settings) -> None:
    status._broker(settings).release()


def by_check(settings: Settings) -> None:
    check_broker(settings.broker, settings.connect_timeout_s)


def by_exporter(settings: Settings) -> None:
    is_redis = settings.broker.startswith("redis")
    with closing(RedisLook(settings) if is_redis else RabbitLook(settings)) as look:
        assert "penstock_queue_messages" in look.take()


Connect = Callable[[Settings], None]
BROKER_WAYS: list[Connect] = [
    by_producer,
    by_mailbox,
    by_celery,
    by_question,
    by_source,
    by_answers,
    by_depth,
    by_look,
    by_announcer,
    by_status,
    by_check,
    by_exporter,
    check_broker_tls,
]


def refusal(connect: Connect, settings: Settings, name: str = "PENSTOCK_BROKER") -> str:
    """In the words that a person gets."""
    with pytest.raises(Exception) as caught:
        connect(settings)
    return say_tls_error(caught.value, name) or str(caught.value)


# A queue has to be there to be counted, so the producer comes first.
def test_every_way_to_the_broker(broker: dict[str, str], stranger: Authority) -> None:
    names = [way.__name__ for way in BROKER_WAYS]
    right = load_settings(**broker)
    for way in BROKER_WAYS:
        way(right)

    wrong_name = load_settings(**broker | {"broker_url": broker["broker_url"].replace(RIGHT, WRONG)})
    reasons = {way.__name__: refusal(way, wrong_name) for way in BROKER_WAYS}
    assert {
        name: text for name, text in reasons.items() if "its certificate is not for 127.0.0.1: use a name" not in text
    } == {}

    unknown_ca = load_settings(**broker | {"broker_tls_ca": str(stranger.ca)})
    reasons = {way.__name__: refusal(way, unknown_ca) for way in BROKER_WAYS}
    wanted = "not signed by an authority that is trusted here: set PENSTOCK_BROKER_TLS_CA"
    assert {name: text for name, text in reasons.items() if wanted not in text} == {}
    assert list(reasons) == names


def test_who_trusts_the_systems_authorities_does_not_trust_this_one(broker: dict[str, str]) -> None:
    """Whatever library connects: over rediss:// kombu would trust everyone, and py-amqp would not know a name to check."""
    url = load_settings(**broker).broker.partition("?")[0]
    reasons = {way.__name__: refusal(way, load_settings(broker_url=url)) for way in BROKER_WAYS}
    assert {name: text for name, text in reasons.items() if "not signed by an authority" not in text} == {}


def test_a_broker_wants_our_certificate(broker: dict[str, str], stranger: Authority) -> None:
    without = load_settings(**broker | {"broker_tls_certificate": None, "broker_tls_key": None})
    strangers = {"broker_tls_certificate": str(stranger.client), "broker_tls_key": str(stranger.client_key)}
    reasons = refusal(by_check, without), refusal(by_check, load_settings(**broker | strangers))
    if broker["broker_url"].startswith("amqps"):  # the front in Python hangs up without saying why
        hung_up = "it wants a certificate of ours or does not accept it"
        assert "set PENSTOCK_BROKER_TLS_CERTIFICATE" in reasons[0] or hung_up in reasons[0]
        assert "it does not accept our certificate" in reasons[1] or hung_up in reasons[1]


def test_tls_and_none_do_not_meet(broker: dict[str, str], request: pytest.FixtureRequest) -> None:
    url = broker["broker_url"]
    is_redis = url.startswith("rediss")
    server = request.getfixturevalue("valkey_server" if is_redis else "rabbitmq_server")
    plain_port = server.endpoint.port if is_redis else server.port
    to_plain = url.replace(f":{urlsplit(url).port}/", f":{plain_port}/")
    settings = load_settings(**broker | {"broker_url": to_plain, "connect_timeout_s": 0.2})  # Redis waits for more to come
    assert "speaks no TLS on this port: use the port with TLS" in refusal(by_check, settings)
    without_tls = load_settings(broker_url=url.replace("s://", "://"))
    for way in (by_producer, by_source, by_celery):
        assert refusal(way, without_tls)


def test_a_producer_says_why_it_cannot_send(broker: dict[str, str]) -> None:
    url = load_settings(**broker | {"broker_url": broker["broker_url"].replace(RIGHT, WRONG)}).broker
    with Producer(url, durability="memory", linger_s=0, exit_deadline_s=0) as producer:
        producer.publish(Pair(tenant="a", number=1))
        eventually(lambda: producer.status().last_error)
        assert "TLS: its certificate is not for 127.0.0.1" in str(producer.status().last_error)


def test_a_certificate_that_has_expired(valkey_server: ValkeyServer, authority: Authority) -> None:
    with closing(TlsFront(valkey_server.endpoint.port, authority, is_expired=True)) as front:
        url = at_port(valkey_server.url, "rediss", front.port)
        settings = load_settings(broker_url=url, **authority.settings("broker"))
        assert {refusal(way, settings) for way in (by_look, by_celery)} == {"TLS: its certificate has expired: renew it there"}


def test_verification_goes_only_where_the_url_says_so(valkey_server: ValkeyServer, authority: Authority) -> None:
    """And then for all."""
    with closing(TlsFront(valkey_server.endpoint.port, authority, is_expired=True)) as front:
        url = at_port(valkey_server.url, "rediss", front.port).replace(RIGHT, WRONG) + "?ssl_cert_reqs=none"
        files = authority.settings("broker") | {"broker_tls_ca": None}
        for way in (by_producer, by_celery, by_source):
            way(load_settings(broker_url=url, **files))


# -- every way to the database


def by_worker(settings: Settings) -> None:
    connect_with(settings)().close()


def by_migrations(settings: Settings) -> None:
    open_connection(settings.database).close()


def by_restore(settings: Settings) -> None:
    with connect_to_server(settings.database) as server:
        server.connect(database_of(str(settings.database_url))).close()


def by_database_check(settings: Settings) -> None:
    check_database(settings.database, 5)


def by_database_exporter(settings: Settings) -> None:
    open_measuring(settings).close()


def by_program(settings: Settings) -> None:
    """As pg_dump and pg_restore are called. Those beside the embedded server have no TLS, and Debian's are older than it."""
    program = shutil.which("psql", path="/usr/bin")
    if program is None:
        by_worker(settings)
        return
    database, environment = as_words(settings.database)
    words = [program, "--no-psqlrc", "--no-password", "--command", "SELECT 1", "--dbname", database]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigurationError(done.stderr)


DATABASE_WAYS: list[Connect] = [by_worker, by_migrations, by_restore, by_database_check, by_database_exporter, by_program]


def test_every_way_to_the_database(database: dict[str, str], stranger: Authority, postgres_front: TlsFront) -> None:
    before = postgres_front.connections
    for way in DATABASE_WAYS:
        way(load_settings(**database))
    assert postgres_front.connections >= before + len(DATABASE_WAYS)

    wrong_name = load_settings(**database | {"database_url": database["database_url"].replace(RIGHT, WRONG)})
    reasons = {way.__name__: refusal(way, wrong_name) for way in DATABASE_WAYS}
    assert {
        name: text for name, text in reasons.items() if "its certificate is not for 127.0.0.1: use a name" not in text
    } == {}

    unknown_ca = load_settings(**database | {"database_tls_ca": str(stranger.ca)})
    reasons = {way.__name__: refusal(way, unknown_ca) for way in DATABASE_WAYS}
    assert {name: text for name, text in reasons.items() if "not signed by an authority" not in text} == {}


def test_a_database_without_tls_is_refused(database: dict[str, str], postgres_server: PostgresServer) -> None:
    url = at_port(database["database_url"], "postgresql", postgres_server.endpoint.port)
    reasons = [refusal(way, load_settings(**database | {"database_url": url})) for way in DATABASE_WAYS]
    assert [text for text in reasons if "TLS: it speaks no TLS on this port: use the port with TLS" not in text] == []


def test_a_database_wants_our_certificate(database: dict[str, str]) -> None:
    without = load_settings(**database | {"database_tls_certificate": None, "database_tls_key": None})
    assert "see PENSTOCK_DATABASE_TLS_CERTIFICATE" in refusal(by_worker, without, "PENSTOCK_DATABASE")


# -- commands


@pytest.mark.parametrize("command", ["worker", "beat"])
def test_what_waiting_cannot_cure_ends_the_start(command: str, broker: dict[str, str], database: dict[str, str]) -> None:
    """As a wrong password does; a line that names the variable, and exit code 2."""
    given = broker | database | {"broker_url": broker["broker_url"].replace(RIGHT, WRONG)}
    done = penstock_here(command, **variables(given))
    line = (
        "penstock: the broker cannot be used: TLS: its certificate is not for 127.0.0.1: use a name that stands in the "
        "certificate, or have one made for this name\n"
    )
    assert (done.returncode, done.stderr) == (2, line)


def test_a_worker_refuses_a_database_of_another_name(broker: dict[str, str], database: dict[str, str]) -> None:
    given = broker | database | {"database_url": database["database_url"].replace(RIGHT, WRONG)}
    done = penstock_here("worker", **variables(given))
    assert done.returncode == 2
    assert "TLS: its certificate is not for 127.0.0.1" in done.stderr


def test_backups_say_that_the_embedded_servers_pg_dump_has_no_tls(database: dict[str, str]) -> None:
    """Debian's has; it is not new enough for the embedded server."""
    done = penstock_here("backup", **variables(database))
    assert done.returncode == 2
    assert "was built without TLS: install PostgreSQL 18's client programs" in done.stderr


def variables(settings: dict[str, Any]) -> dict[str, str]:
    return {f"PENSTOCK_{name.upper()}": str(value) for name, value in settings.items()}


def test_nobody_connects_but_by_the_one_function() -> None:
    """A `Connection` made by hand has none of the above."""
    root = Path(__file__).parents[2]
    found = [
        f"{path.relative_to(root)}: {line.strip()}"
        for folder in ("producers", "worker", "migrations")
        for path in (root / folder).rglob("*.py")
        if path.name != "tls.py"
        for line in path.read_text().splitlines()
        if any(
            words in line
            for words in (
                " Connection(settings",
                "Connection(url",
                "broker=settings",
                "broker=url",
                "from_url(",
                "kombu.Connection(",
            )
        )
    ]
    assert [line for line in found if "valkey.py" not in line] == []


def test_psycopg_has_its_own_words(database: dict[str, str]) -> None:
    """The settings' TLS is a part of the URL, so that whatever takes one has it."""
    with psycopg.connect(load_settings(**database).database) as connection:
        assert connection.pgconn.ssl_in_use
    assert os.environ.get("PGSSLMODE") is None
