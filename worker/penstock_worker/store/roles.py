"""
The database's roles and what each may do. Nobody logs in as one of them: login roles are made members of them.

| role              | for whom                         | may                                                                   |
|-------------------|----------------------------------|-----------------------------------------------------------------------|
| `penstock_ingest` | workers with `--only ingest`     | read, insert and update records, write what ingestion notes           |
| `penstock_read`   | reading commands, the exporter   | read records and Penstock's own tables, but for those about erasures  |
| `penstock_admin`  | migrations, maintenance and beat | everything, once it owns the tables: `ownership`                      |

Roles belong to the whole cluster, rights to one database. What they may do is laid down anew at the end of every
`penstock migrate up`: what was granted to them or taken from them by hand on these tables does not last. Who needs more gets a
role of his own.

Rows of partitions are read and written through their parents, whose rights count: partitions have none of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from psycopg import sql

from penstock_schemas.registry import Registry
from penstock_worker.store.connection import Connection
from penstock_worker.store.own_schema import OWN_SCHEMA

__all__ = [
    "ADMIN",
    "HIDDEN_FROM_READERS",
    "INGEST",
    "OF_INGEST",
    "READ",
    "ROLES",
    "create_roles",
    "grant_rights",
    "missing_roles",
    "statement_for",
]

INGEST, READ, ADMIN = "penstock_ingest", "penstock_read", "penstock_admin"
ROLES = (INGEST, READ, ADMIN)

#: What ingestion does with our own tables. Only what it notes of suspects does it take back.
OF_INGEST: Mapping[str, frozenset[str]] = {
    "ledger": frozenset({"SELECT", "INSERT"}),
    "producers": frozenset({"SELECT", "INSERT", "UPDATE"}),
    "dead_letters": frozenset({"SELECT", "INSERT"}),
    "suspects": frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"}),
    "fences": frozenset({"SELECT"}),
    "fence_key": frozenset({"SELECT"}),
    "legal_holds": frozenset({"SELECT"}),
    "erased_parents": frozenset({"INSERT"}),
}
_OF_RECORDS = frozenset({"SELECT", "INSERT", "UPDATE"})
_READS = frozenset({"SELECT"})
#: With the key a reader could find out who was erased; the others say of whom and of which rows.
HIDDEN_FROM_READERS = frozenset({"fence_key", "fences", "erased_parents", "privacy_log"})

Rights = Mapping[str, frozenset[str]]


class _Table(NamedTuple):
    schema: str
    name: str


def missing_roles(connection: Connection) -> list[str]:
    """Those of the roles that this cluster does not have."""
    found = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY (%s)", [list(ROLES)])}
    return [role for role in ROLES if role not in found]


def statement_for(roles: Iterable[str]) -> str:
    """What somebody runs who may make roles."""
    return " ".join(f"CREATE ROLE {role} NOLOGIN;" for role in roles)


def create_roles(connection: Connection) -> list[str]:
    """
    Make those roles that are missing, as far as we may. Others may do so for another database of the cluster at the same time.

    Returns:
        Those that are missing still.
    """
    for role in missing_roles(connection):
        # Whoever is first: the other one waits for his commit, and finds the role made.
        connection.execute(
            sql.SQL(
                "DO $$ BEGIN CREATE ROLE {} NOLOGIN;"
                " EXCEPTION WHEN duplicate_object OR unique_violation OR insufficient_privilege THEN NULL; END $$"
            ).format(sql.Identifier(role))
        )
    return missing_roles(connection)


def grant_rights(connection: Connection, registry: Registry) -> None:
    """
    Let each role do exactly what it is for, with our own tables and those of the record types; safe to run at any time.

    Only what is different is touched. A role that is missing is left out, and so is the database's own list of rights where we
    may not change it.

    Args:
        connection: In autocommit, of an owner of the tables or a superuser.
        registry: The record types.
    """
    missing = missing_roles(connection)
    wanted = {role: rights for role, rights in _wanted(connection, registry).items() if role not in missing}
    with connection.transaction():
        for role, tables in wanted.items():
            _let_use(connection, role, _schemas(registry))
            _let_access(connection, role, tables)
            _let_call(connection, role)
        for role, right in ((INGEST, "TEMPORARY"), (ADMIN, "TEMPORARY"), (ADMIN, "CREATE")):
            if role not in missing:
                _let_on_database(connection, role, right)


def _wanted(connection: Connection, registry: Registry) -> dict[str, dict[_Table, frozenset[str]]]:
    versions, own = _own_tables(connection)
    records = [_Table(record.declaration.schema, record.declaration.table_name) for record in registry.values()]
    # Who starts looks whether all migrations are there.
    starts = dict.fromkeys(versions, _READS)
    nothing: frozenset[str] = frozenset()
    return {
        INGEST: starts | dict.fromkeys(records, _OF_RECORDS) | {table: OF_INGEST.get(table.name, nothing) for table in own},
        READ: starts
        | dict.fromkeys(records, _READS)
        | {table: nothing if table.name in HIDDEN_FROM_READERS else _READS for table in own},
    }


def _own_tables(connection: Connection) -> tuple[list[_Table], list[_Table]]:
    """The tables in which histories of migrations are noted, and all others of our schema."""
    rows = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(%s) AND relkind IN ('r', 'p') ORDER BY 1",
        [OWN_SCHEMA],
    )
    tables = [_Table(OWN_SCHEMA, str(name)) for (name,) in rows.fetchall()]
    versions = [table for table in tables if table.name.startswith("alembic_version")]
    return versions, [table for table in tables if table not in versions]


def _schemas(registry: Registry) -> list[str]:
    return sorted({OWN_SCHEMA, *(record.declaration.schema for record in registry.values())})


def _let_use(connection: Connection, role: str, schemas: Sequence[str]) -> None:
    query = "SELECT nspname FROM pg_namespace WHERE nspname = ANY (%s) AND NOT has_schema_privilege(%s, oid, 'USAGE')"
    for (schema,) in connection.execute(query, [schemas, role]).fetchall():
        connection.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(str(schema)), sql.Identifier(role)))


def _let_access(connection: Connection, role: str, wanted: Mapping[_Table, frozenset[str]]) -> None:
    for table, present in _rights_on(connection, role, wanted).items():
        if present == wanted[table]:
            continue
        names = {"table": sql.Identifier(*table), "role": sql.Identifier(role)}
        if present - wanted[table]:
            connection.execute(sql.SQL("REVOKE ALL ON {table} FROM {role}").format(**names))
        if wanted[table]:
            rights = sql.SQL(", ").join(map(sql.SQL, sorted(wanted[table])))
            connection.execute(sql.SQL("GRANT {rights} ON {table} TO {role}").format(rights=rights, **names))


def _rights_on(connection: Connection, role: str, tables: Iterable[_Table]) -> dict[_Table, frozenset[str]]:
    """What a role itself was granted; nothing of tables that are not there, which a migration of theirs makes later."""
    schemas, names = zip(*tables, strict=True)
    rows = connection.execute(
        "SELECT n.nspname, c.relname, array_agg(a.privilege_type) FILTER (WHERE a.grantee = to_regrole(%s))"
        " FROM unnest(%s::text[], %s::text[]) AS asked (schema, name)"
        " JOIN pg_namespace n ON n.nspname = asked.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = asked.name"
        " LEFT JOIN LATERAL aclexplode(c.relacl) AS a ON true GROUP BY 1, 2 ORDER BY 1, 2",
        [role, list(schemas), list(names)],
    )
    return {_Table(str(schema), str(name)): frozenset(rights or ()) for schema, name, rights in rows.fetchall()}  # type: ignore[call-overload]  # an array of texts is a list


def _let_call(connection: Connection, role: str) -> None:
    """Everybody may call functions, as a rule; where somebody has changed that, those that the upsert calls."""
    rows = connection.execute(
        "SELECT oid::regprocedure::text FROM pg_proc"
        " WHERE pronamespace = to_regnamespace(%s) AND NOT has_function_privilege(%s, oid, 'EXECUTE')",
        [OWN_SCHEMA, role],
    )
    for (function,) in rows.fetchall():
        connection.execute(sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}").format(sql.SQL(str(function)), sql.Identifier(role)))


def _let_on_database(connection: Connection, role: str, right: str) -> None:
    """Granted although everybody has the first one as a rule: it lasts when that is taken away."""
    row = connection.execute(
        "SELECT datname, pg_has_role(datdba, 'USAGE') AND NOT EXISTS (SELECT FROM aclexplode(datacl)"
        " WHERE grantee = to_regrole(%s) AND privilege_type = %s) FROM pg_database WHERE datname = current_database()",
        [role, right],
    ).fetchone()
    assert row is not None  # we are in it
    database, is_ours_to_grant = row
    if is_ours_to_grant:
        names = {"database": sql.Identifier(str(database)), "role": sql.Identifier(role)}
        connection.execute(sql.SQL("GRANT {right} ON DATABASE {database} TO {role}").format(right=sql.SQL(right), **names))
