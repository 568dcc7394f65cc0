"""
What version files call beside Alembic's `op`.

A version file names tables and columns only; how they are partitioned and merged is read from the record types as they are when
it runs. A table or column that has since left the declarations needs neither.
"""

from __future__ import annotations

from typing import Any

import psycopg
from alembic import op

from penstock_schemas.record import RecordType
from penstock_schemas.registry import Registry
from penstock_worker.store import ownership, roles
from penstock_worker.store.connection import Connection
from penstock_worker.store.partitions import ensure_partitions
from penstock_worker.store.promotion import promote_extra as promote
from penstock_worker.store.upsert import literal, quote

__all__ = [
    "create_partitions",
    "create_roles",
    "create_schema",
    "drop_schema",
    "drop_schema_if_empty",
    "execute_script",
    "promote_extra",
    "withdraw_roles",
]

_IS_EMPTY = """
    SELECT to_regnamespace({0}) IS NOT NULL
    AND NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace({0}))
    AND NOT EXISTS (SELECT FROM pg_proc WHERE pronamespace = to_regnamespace({0}))
"""


def create_schema(name: str) -> None:
    """Make a PostgreSQL schema, if it is not there yet."""
    op.execute(f"CREATE SCHEMA IF NOT EXISTS {quote(name)}")


def drop_schema(name: str) -> None:
    """Drop a PostgreSQL schema, unless somebody else keeps something in it."""
    drop_schema_if_empty(_driver_connection(), name)


def drop_schema_if_empty(connection: Connection, name: str) -> None:
    """The same outside a migration."""
    if connection.execute(_IS_EMPTY.format(literal(quote(name)))).fetchone() == (True,):
        connection.execute(f"DROP SCHEMA {quote(name)}")


def execute_script(statements: str) -> None:
    """Run several statements as they are: nothing in them is a parameter."""
    _driver_connection().execute(statements)


def create_partitions(table: str) -> None:
    """Make the months of an append-only table that are kept, and those ahead."""
    record = _find_record(table)
    if record is not None:
        ensure_partitions(_driver_connection(), record)


def promote_extra(table: str, column: str) -> None:
    """Fill a new column with what newer producers have sent already, see `penstock_worker.store.promotion`."""
    record = _find_record(table)
    if record is not None and column in record.by_name:
        promote(_driver_connection(), record, column)


def create_roles() -> None:
    """Make the database's roles, as far as the user may; `penstock migrate up` lays down what they may do at its end."""
    roles.create_roles(_driver_connection())


def withdraw_roles() -> None:
    """Take from the roles what they have in this database; see `penstock_worker.store.ownership`."""
    ownership.withdraw_roles(_driver_connection())


def _find_record(table: str) -> RecordType | None:
    environment: Any = op.get_context().environment_context
    registry: Registry = environment.config.attributes["registry"]
    return next((record for record in registry.values() if record.declaration.table == table), None)


def _driver_connection() -> Connection:
    """The connection of the running migration, in its transaction."""
    connection = op.get_bind().connection.driver_connection
    assert isinstance(connection, psycopg.Connection), "run.py has opened it"
    return connection
