"""What a manifest says of a database beside its rows."""

from __future__ import annotations

from psycopg import sql

from penstock_worker.store.connection import Connection
from penstock_worker.store.own_schema import OWN_SCHEMA

__all__ = ["grantees", "migrations", "owners"]

_OWNERS = """
    SELECT DISTINCT pg_get_userbyid(owner) FROM (
        SELECT relowner, relnamespace FROM pg_class UNION SELECT nspowner, oid FROM pg_namespace
        UNION SELECT proowner, pronamespace FROM pg_proc UNION SELECT typowner, typnamespace FROM pg_type
    ) AS owned (owner, schema) JOIN pg_namespace n ON n.oid = owned.schema
    WHERE n.nspname <> 'information_schema' AND n.nspname <> 'public' AND n.nspname NOT LIKE 'pg\\_%' ORDER BY 1
"""
_GRANTEES = """
    SELECT DISTINCT r.rolname FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid
    JOIN pg_database b ON b.oid = d.dbid AND b.datname = current_database()
    WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'a' ORDER BY 1
"""
_VERSION_TABLES = """
    SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind = 'r'
      AND starts_with(relname, 'alembic_version') ORDER BY 1
"""


def owners(connection: Connection) -> list[str]:
    """Roles that own something of the database."""
    return _names(connection, _OWNERS)


def grantees(connection: Connection) -> list[str]:
    """Roles that were granted something in the database."""
    return _names(connection, _GRANTEES)


def migrations(connection: Connection) -> dict[str, list[str]]:
    """The revisions in each version table."""
    revisions = {}
    for (table,) in connection.execute(_VERSION_TABLES.encode(), [OWN_SCHEMA]).fetchall():
        query = sql.SQL("SELECT version_num FROM {} ORDER BY 1").format(sql.Identifier(OWN_SCHEMA, str(table)))
        revisions[str(table)] = [str(revision) for (revision,) in connection.execute(query).fetchall()]
    return revisions


def _names(connection: Connection, query: str) -> list[str]:
    return [str(name) for (name,) in connection.execute(query.encode()).fetchall()]
