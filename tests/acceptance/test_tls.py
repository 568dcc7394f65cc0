"""One worker with all of its connections on TLS, both sides with a certificate: published, stored, answered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from penstock_producers import Producer
from penstock_schemas.records.translation import TranslationTask
from penstock_worker.settings import load_settings
from penstock_worker.stack.commands import service_environment
from tests.acceptance.witness import until
from tests.integration.test_tls import at_port, variables
from tests.servers.celery_worker import WorkerProcess
from tests.servers.databases import PostgresServer
from tests.servers.rabbitmq import RabbitServer
from tests.servers.tls import Authority, TlsFront
from tests.servers.valkey import ValkeyServer

pytestmark = pytest.mark.acceptance

#: Seconds in which a busy machine surely answers.
LONG_S = 120.0


@pytest.fixture
def fronts(postgres_server: PostgresServer, valkey_server: ValkeyServer, tmp_path: Path) -> Iterator[dict[str, TlsFront]]:
    authority = Authority(tmp_path / "authority")
    with (
        closing(TlsFront(postgres_server.endpoint.port, authority, is_postgres=True)) as postgres,
        closing(TlsFront(valkey_server.endpoint.port, authority)) as valkey,
    ):
        yield {"database": postgres, "redis": valkey}


@pytest.fixture
def settings(broker_url: str, database_url: str, fronts: dict[str, TlsFront], request: pytest.FixtureRequest) -> dict[str, str]:
    """Without passwords: those are in files."""
    authority = fronts["database"].authority
    found = {"database_url": at_port(database_url, "postgresql", fronts["database"].port), **authority.settings("database")}
    if broker_url.startswith("redis"):
        url = at_port(broker_url, "rediss", fronts["redis"].port)
        return found | {"broker_url": url, **authority.settings("broker")}
    server: RabbitServer = request.getfixturevalue("rabbitmq_server")
    return found | {"broker_url": at_port(broker_url, "amqps", server.tls_port), **server.authority.settings("broker")}


def with_secrets_in_files(settings: dict[str, str], folder: Path) -> dict[str, str]:
    """As a container gets them: the passwords out of the URLs, each in a file of its own."""
    environment = variables(settings)
    for kind in ("broker", "database"):
        scheme, _, rest = settings[f"{kind}_url"].partition("://")
        secrets, _, place = rest.rpartition("@")
        user, _, password = secrets.partition(":")
        (folder / kind).write_text(password + "\n")
        environment[f"PENSTOCK_{kind.upper()}_URL"] = f"{scheme}://{user}@{place}"
        environment[f"PENSTOCK_{kind.upper()}_PASSWORD_FILE"] = str(folder / kind)
    return environment


def test_a_worker_with_everything_on_tls(
    settings: dict[str, str],
    database_url: str,
    fronts: dict[str, TlsFront],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment = with_secrets_in_files(settings, tmp_path)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    found = load_settings(concurrency=1)
    told = service_environment(found)
    assert told == {"PENSTOCK_CONCURRENCY": "1"}  # no secret that came from a file goes into a child's environment
    worker = WorkerProcess("tls", tmp_path, environment | told)
    with running(worker), Producer(found.broker, name="tls") as producer:
        receipts = [producer.publish(TranslationTask(task_id=f"t{number}", session_id="s")) for number in range(300)]
        assert [receipt.wait(LONG_S) for receipt in receipts] == ["stored"] * len(receipts)
        # Large messages: more than one record of TLS each, and what one read leaves in OpenSSL must not be left there.
        large = [TranslationTask(task_id=f"l{number}", session_id="s", error="x" * 100_000) for number in range(20)]
        assert producer.publish_many(large)[-1].wait(LONG_S) == "stored"
        assert producer.flush(LONG_S)
        with psycopg.connect(database_url) as connection:
            query = "SELECT count(*) FROM translation.tasks"
            until(lambda: connection.execute(query).fetchone() == (320,))
    assert fronts["database"].connections > 0
    secrets = [(tmp_path / kind).read_text().strip() for kind in ("broker", "database")]
    assert [secret for secret in secrets if secret != "guest" and secret in worker.logs()] == []


@contextmanager
def running(worker: WorkerProcess) -> Iterator[None]:
    try:
        worker.start()
        yield
        worker.stop()
    finally:
        worker.clean_up()
