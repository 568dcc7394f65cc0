"""
The connection of a run of migrations.

Two runs at once wait for each other. A migration that waits for a table makes everybody wait who comes after it, so it waits
for a short while, gives way, and tries again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psycopg
import sqlalchemy as sa

from penstock_producers.transports.tls_errors import say_tls_error
from penstock_worker.errors import ConfigurationError
from penstock_worker.store.connection import Connection
from penstock_worker.store.own_schema import OWN_SCHEMA

__all__ = ["connect", "open_connection", "patiently"]

T = TypeVar("T")

#: Held by a run of migrations; any fixed number that nobody else uses.
_LOCK = 0x70656E6D6967
#: Seconds a migration waits for a table, and how often it tries.
_LOCK_TIMEOUT_S = 3
_TRIES = 20
#: lock_not_available and deadlock_detected: workers were in the way.
_IN_THE_WAY = ("55P03", "40P01")
_OLDEST_POSTGRESQL = 14
#: A role named like one of our schemas would make it the default one, and Alembic calls the default schema None.
_OPTIONS = f"-c search_path=public -c timezone=UTC -c lock_timeout={_LOCK_TIMEOUT_S}s -c statement_timeout=0"


def open_connection(database_url: str) -> Connection:
    """A connection in autocommit, for what is no migration of Alembic's."""
    return psycopg.connect(
        database_url, autocommit=True, connect_timeout=10, options=_OPTIONS, application_name="penstock migrate"
    )


@contextmanager
def connect(database_url: str, *, is_alone: bool = True) -> Iterator[sa.Connection]:
    """
    A connection outside any transaction.

    Args:
        database_url: As libpq takes it.
        is_alone: Wait until no other run of migrations is under way, and hold off those that come.

    Raises:
        ConfigurationError: The database cannot be reached, is too old, or refuses something; one line.
    """
    # The driver's own reading of the URL, with every parameter that libpq knows.
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: _in_transactions(database_url), poolclass=sa.NullPool)
    try:
        with engine.connect() as connection:
            _check_version(connection)
            if is_alone:
                _lock(connection)
            connection.commit()
            yield connection
    except sa.exc.DBAPIError as exc:
        reason = say_tls_error(exc, "PENSTOCK_DATABASE") or " ".join(str(exc.orig).split())
        raise ConfigurationError(f"the database says: {reason}") from exc
    except psycopg.Error as exc:
        reason = say_tls_error(exc, "PENSTOCK_DATABASE") or " ".join(str(exc).split())
        raise ConfigurationError(f"the database says: {reason}") from exc
    finally:
        engine.dispose()


def patiently(connection: sa.Connection, action: Callable[[], T]) -> T:
    """Do something that locks tables; when workers were in the way, again."""
    for attempt in range(1, _TRIES + 1):
        try:
            return action()
        except (sa.exc.DBAPIError, psycopg.Error) as exc:
            connection.rollback()
            cause = exc.orig if isinstance(exc, sa.exc.DBAPIError) else exc
            if getattr(cause, "sqlstate", None) not in _IN_THE_WAY or attempt == _TRIES:
                raise
            time.sleep(random.uniform(0.2, 1))  # noqa: S311  # no secret
    raise AssertionError("the last try returns or raises")


def _in_transactions(database_url: str) -> Connection:
    connection = open_connection(database_url)
    connection.autocommit = False
    return connection


def _check_version(connection: sa.Connection) -> None:
    version = connection.exec_driver_sql("SHOW server_version_num").scalar_one()
    if int(version) < _OLDEST_POSTGRESQL * 10_000:
        raise ConfigurationError(f"PostgreSQL {int(version) // 10_000} is too old: {_OLDEST_POSTGRESQL} or newer is needed")


def _lock(connection: sa.Connection) -> None:
    """A lock of the session, so that it lasts over the migrations' own transactions."""
    connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
    connection.exec_driver_sql(f"SELECT pg_advisory_lock({_LOCK})")
    # IF NOT EXISTS would ask for the right to make schemas, also where there is nothing to make.
    if connection.exec_driver_sql(f"SELECT to_regnamespace('{OWN_SCHEMA}')").scalar_one() is None:
        connection.exec_driver_sql(f"CREATE SCHEMA {OWN_SCHEMA}")
