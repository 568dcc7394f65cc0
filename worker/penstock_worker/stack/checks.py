"""Whether servers that somebody else runs can be used; what is wrong is said in one line, before anything starts."""

from __future__ import annotations

from penstock_producers.transports.tls import broker_connection
from penstock_producers.transports.tls_errors import say_tls_error
from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import hide_password

__all__ = ["check_broker", "check_database"]

#: The oldest servers that Penstock is made for.
_OLDEST_POSTGRES = 14
_OLDEST_REDIS = (6, 2)
_OLDEST_RABBITMQ = (3, 10)


def check_database(url: str, connect_timeout_s: float) -> None:
    """
    Connect once.

    Raises:
        ConfigurationError: It cannot be reached, or is too old.
    """
    import psycopg

    try:
        with psycopg.connect(url, connect_timeout=max(2, round(connect_timeout_s))) as connection:
            version = connection.info.server_version // 10_000
    except psycopg.Error as exc:
        reason = _reason(exc, "PENSTOCK_DATABASE")
        raise ConfigurationError(
            f"the database cannot be reached: {reason}; check PENSTOCK_DATABASE_URL ({hide_password(url)})"
        ) from exc
    if version < _OLDEST_POSTGRES:
        raise ConfigurationError(f"PostgreSQL {version} is too old: Penstock needs {_OLDEST_POSTGRES} or newer")


def check_broker(url: str, connect_timeout_s: float) -> None:
    """
    Connect once.

    Raises:
        ConfigurationError: It cannot be reached, is too old, or is a Redis Cluster.
    """
    options = {"socket_connect_timeout": connect_timeout_s, "socket_timeout": connect_timeout_s}
    is_redis = url.startswith("redis")
    try:
        transport_options = options if is_redis else {}
        with broker_connection(url, connect_timeout=connect_timeout_s, transport_options=transport_options) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=connect_timeout_s)
            if is_redis:
                _check_redis(connection.default_channel.client.info())
            else:
                _check_rabbitmq(connection.connection.server_properties)
    except ConfigurationError:
        raise
    except Exception as exc:  # kombu passes on what any driver raises, a bad host name or password included
        reason = _reason(exc, "PENSTOCK_BROKER")
        raise ConfigurationError(
            f"the broker cannot be reached: {reason}; check PENSTOCK_BROKER_URL ({hide_password(url)})"
        ) from exc


def _check_redis(info: dict[str, object]) -> None:
    if info.get("redis_mode") == "cluster":
        raise ConfigurationError("Redis Cluster cannot be the broker: a batch is popped from one list on one server")
    # Valkey says here which Redis it is compatible with.
    _require("Redis", str(info["redis_version"]), _OLDEST_REDIS)


def _check_rabbitmq(properties: dict[str, object]) -> None:
    if properties.get("product") == "RabbitMQ":
        _require("RabbitMQ", str(properties["version"]), _OLDEST_RABBITMQ)


def _require(product: str, version: str, oldest: tuple[int, int]) -> None:
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) < oldest:
        raise ConfigurationError(f"{product} {version} is too old: Penstock needs {oldest[0]}.{oldest[1]} or newer")


def _reason(exc: Exception, name: str) -> str:
    return say_tls_error(exc, name) or (str(exc).strip().splitlines() or [type(exc).__name__])[0]
