"""One URL means the same to producers and workers."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme
from redis.connection import SSLConnection

from penstock_producers.transports.redis import RedisTransport
from penstock_producers.transports.redis_url import redis_arguments


def read(url: str) -> dict[str, Any]:
    return redis_arguments(url, socket_timeout_s=3, connect_timeout_s=2)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", ("127.0.0.1", 6379, 0, None, None)),
        ("redis://cache", ("cache", 6379, 0, None, None)),
        ("redis://cache:7000/3", ("cache", 7000, 3, None, None)),
        ("redis://cache:7000//3", ("cache", 7000, 3, None, None)),
        ("redis://cache/", ("cache", 6379, 0, None, None)),
        ("redis://[::1]:7000/0", ("::1", 7000, 0, None, None)),
        ("redis://:secret@cache", ("cache", 6379, 0, None, "secret")),
        ("redis://ann:secret@cache/1", ("cache", 6379, 1, "ann", "secret")),
        ("redis://ann%40home:p%40ss%2Fw%3Aord%25@cache/1", ("cache", 6379, 1, "ann@home", "p@ss/w:ord%")),
        # Options of kombu's consumers are none of redis-py's.
        ("redis://cache/1?visibility_timeout=60&health_check_interval=x", ("cache", 6379, 1, None, None)),
    ],
)
def test_where_a_url_leads(url: str, expected: tuple[Any, ...]) -> None:
    arguments = read(url)
    assert tuple(arguments[name] for name in ("host", "port", "db", "username", "password")) == expected
    assert (arguments["socket_timeout"], arguments["socket_connect_timeout"], "ssl" in arguments) == (3, 2, False)
    redis.Redis(**arguments).close()


@pytest.mark.parametrize("reqs", ["CERT_REQUIRED", "required"])
def test_tls_options_are_understood_in_celerys_and_in_redis_spelling(reqs: str, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca))
    arguments = read(f"rediss://cache/1?ssl_cert_reqs={reqs}&ssl_ca_certs={ca}&ssl_check_hostname=false")
    assert (arguments["ssl"], arguments["ssl_cert_reqs"]) == (True, ssl.CERT_REQUIRED)
    assert (arguments["ssl_ca_certs"], arguments["ssl_check_hostname"]) == (str(ca), False)
    connection = connection_of(arguments)
    assert (connection.cert_reqs, connection.ca_certs, connection.check_hostname) == (ssl.CERT_REQUIRED, str(ca), False)


def test_tls_without_options_checks_the_certificate_and_the_name() -> None:
    connection = connection_of(read("rediss://cache"))
    assert (connection.cert_reqs, connection.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_tls_may_be_told_to_trust_anyone() -> None:
    connection = connection_of(read("rediss://cache?ssl_cert_reqs=CERT_NONE"))
    assert (connection.cert_reqs, connection.check_hostname) == (ssl.CERT_NONE, False)


def test_the_lowest_version_of_tls_is_a_number() -> None:
    assert connection_of(read("rediss://cache?ssl_min_version=771")).ssl_min_version == ssl.TLSVersion.TLSv1_2


def test_redis_itself_tries_once_only() -> None:
    client = redis.Redis(**read("redis://cache"))
    assert client.get_connection_kwargs()["retry"].get_retries() == 0
    client.close()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://:secret@cache/events", "'events' is no database of Redis"),
        ("redis://:secret@cache:0/1", "port 0"),
        ("unix:///run/redis.sock", "must begin with"),
        ("rediss://:secret@cache/1?ssl_cert_reqs=maybe", "an option of the broker's URL is wrong: 'maybe'"),
        ("rediss://:secret@cache/1?ssl_min_version=best", "an option of the broker's URL is wrong: .*'best'"),
        ("redis://:secret@cache/1?port=1", "an option of the broker's URL is wrong"),
    ],
)
def test_a_wrong_url_is_refused_in_one_line_and_without_its_password(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        read(url)
    assert "secret" not in str(caught.value)


def test_the_producer_reads_it_so() -> None:
    arguments = RedisTransport("rediss://:secret@cache:7000/2?ssl_cert_reqs=CERT_OPTIONAL", "queue", 4)._arguments
    assert arguments["ssl_cert_reqs"] == ssl.CERT_OPTIONAL
    assert (arguments["host"], arguments["port"], arguments["db"], arguments["password"]) == ("cache", 7000, 2, "secret")
    assert (arguments["socket_timeout"], arguments["socket_connect_timeout"]) == (4, 4)


def connection_of(arguments: dict[str, Any]) -> SSLConnection:
    """What redis-py would connect with; it connects nowhere yet."""
    client = redis.Redis(**arguments)
    connection = client.connection_pool.make_connection()
    client.close()
    assert isinstance(connection, SSLConnection)
    return connection
