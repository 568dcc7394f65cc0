"""
Who owns the tables: the login role that migrated them, until `penstock migrate up --roles` gives them to `penstock_admin`.

Not without being asked: the roles are of the whole cluster, and who owned the tables becomes a member of `penstock_admin`, to
go on as before. Where two databases of a cluster belong to two people, each would from then on own the other's tables, too.

Once given away they stay so: every later `penstock migrate up` gives away what was made since, and a partition belongs to its
parent's owner whoever made it.
"""

from __future__ import annotations

from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from penstock_schemas.registry import Registry
from penstock_worker.errors import ConfigurationError
from penstock_worker.store.connection import Connection
from penstock_worker.store.own_schema import OWN_SCHEMA
from penstock_worker.store.roles import ADMIN, ROLES, create_roles, grant_rights, statement_for

__all__ = ["give_to_owner_of", "is_handed_over", "settle_roles", "withdraw_roles"]

#: From here on membership has parts: to have the role's rights, to act as the role, to make others its members.
_HAS_PARTS = 160_000

#: Our schemas, tables with their partitions, and functions, as ALTER names them. `public` is everybody's.
_OURS = """
    SELECT 1 AS place, 'SCHEMA' AS kind, quote_ident(nspname) AS name, nspowner AS owner FROM pg_namespace
    WHERE nspname = ANY (%(schemas)s) AND nspname <> 'public'
    UNION ALL
    SELECT 2, 'TABLE', format('%%I.%%I', n.nspname, c.relname), c.relowner
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND (n.nspname = %(own)s OR c.oid IN (
        SELECT to_regclass(name) FROM unnest(%(tables)s::text[]) AS known (name)
        UNION ALL
        SELECT tree.relid FROM unnest(%(tables)s::text[]) AS known (name), pg_partition_tree(to_regclass(name)) AS tree))
    UNION ALL
    SELECT 3, 'FUNCTION', oid::regprocedure::text, proowner FROM pg_proc WHERE pronamespace = to_regnamespace(%(own)s)
"""
#: What roles own in this database; what follows its table, as an index does or the sequence of a number, is not named.
_OWNED = """
    SELECT CASE d.classid WHEN 'pg_class'::regclass THEN 'TABLE' WHEN 'pg_proc'::regclass THEN 'FUNCTION' ELSE 'SCHEMA' END,
        CASE d.classid WHEN 'pg_class'::regclass THEN (SELECT format('%%I.%%I', n.nspname, c.relname) FROM pg_class c
                JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = d.objid AND c.relkind IN ('r', 'p', 'v', 'm', 'f'))
            WHEN 'pg_proc'::regclass THEN d.objid::regprocedure::text
            WHEN 'pg_namespace'::regclass THEN (SELECT quote_ident(nspname) FROM pg_namespace WHERE oid = d.objid) END AS name,
        quote_ident(r.rolname), d.deptype
    FROM pg_shdepend d JOIN pg_roles r ON d.refclassid = 'pg_authid'::regclass AND r.oid = d.refobjid
    WHERE r.rolname = ANY (%(roles)s) AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def is_handed_over(connection: Connection) -> bool:
    """Whether the tables were given to `penstock_admin`."""
    query = "SELECT pg_get_userbyid(nspowner) = %s FROM pg_namespace WHERE nspname = %s"
    return connection.execute(query, [ADMIN, OWN_SCHEMA]).fetchone() == (True,)


def settle_roles(connection: Connection, registry: Registry, *, hands_over: bool = False) -> None:
    """
    Make the roles if we may, and lay down what each owns and may do. Safe to run at any time, and twice.

    Args:
        connection: In autocommit.
        registry: The record types.
        hands_over: Give the tables to `penstock_admin`; what was given before stays so in any case.

    Raises:
        ConfigurationError: They are to be given away and we may not; the message says who must do what.
    """
    missing = create_roles(connection)
    if hands_over and ADMIN in missing:
        user = _user(connection)
        raise ConfigurationError(
            f"{user} may not make roles: let a superuser run {statement_for(missing)} GRANT {ADMIN} TO {user}; "
            "and then run this again"
        )
    if hands_over or is_handed_over(connection):
        _hand_over(connection, registry)
    grant_rights(connection, registry)


def give_to_owner_of(connection: Connection, parent: str, partition: str) -> None:
    """
    Let a new partition belong to whom its parent belongs to: other members of that role look after it as well.

    Args:
        connection: Of who made it.
        parent: Its parent, quoted.
        partition: The partition, quoted.
    """
    query = (
        "SELECT quote_ident(pg_get_userbyid(relowner)) FROM pg_class WHERE oid = to_regclass(%s)"
        f" AND pg_get_userbyid(relowner) <> current_user AND pg_has_role(relowner, '{_acting(connection)}')"
    )
    row = connection.execute(query.encode(), [parent]).fetchone()
    if row is not None:
        connection.execute(f"ALTER TABLE {partition} OWNER TO {row[0]}".encode())


def withdraw_roles(connection: Connection) -> None:
    """
    Take from the roles all that they have in this database, and drop those that nobody uses.

    A role stays that has members, or something in another database of the cluster. DROP OWNED would be shorter, and take away
    what was granted on the other databases, too.
    """
    found = connection.execute(f"{_OWNED} ORDER BY 1, 2".encode(), {"roles": list(ROLES)}).fetchall()
    named = [(kind, name, role, how) for kind, name, role, how in found if name is not None]
    for kind, name, _, how in named:
        if how == "o":
            connection.execute(f"ALTER {kind} {name} OWNER TO CURRENT_USER".encode())
    for kind, name, role, how in named:
        if how == "a":
            connection.execute(f"REVOKE ALL ON {kind} {name} FROM {role}".encode())
    for role in ROLES:
        _withdraw_from_database(connection, role)
        _drop_unused(connection, role)


def _hand_over(connection: Connection, registry: Registry) -> None:
    """
    Statement by statement: each locks a table for a moment, and a second run goes on where one was stopped.

    Schemas first, by which it is known that the rest is to follow; and who owns a table must be allowed to make some there.
    """
    schemas = sorted({OWN_SCHEMA, *(record.declaration.schema for record in registry.values())})
    tables = [record.declaration.table for record in registry.values()]
    theirs = connection.execute(
        f"SELECT kind, name, pg_get_userbyid(owner) FROM ({_OURS}) AS ours WHERE pg_get_userbyid(owner) <> %(admin)s"
        " ORDER BY place, name".encode(),
        {"own": OWN_SCHEMA, "schemas": schemas, "tables": tables, "admin": ADMIN},
    ).fetchall()
    # Whoever could make partitions and drop them goes on to.
    for user in sorted({_user(connection), *(str(owner) for _, _, owner in theirs)}):
        _join(connection, user)
    if "public" in schemas:
        connection.execute(f"GRANT USAGE, CREATE ON SCHEMA public TO {ADMIN}".encode())
    for kind, name, _ in theirs:
        connection.execute(f"ALTER {kind} {name} OWNER TO {ADMIN}".encode())


def _join(connection: Connection, user: str) -> None:
    """Make a user a member of `penstock_admin` who has its rights and may act as it, unless he has and may already."""
    if _is_member(connection, user):
        return
    parts = sql.SQL(" WITH INHERIT TRUE, SET TRUE" if connection.info.server_version >= _HAS_PARTS else "")
    words = sql.SQL("GRANT {} TO {}{}").format(sql.Identifier(ADMIN), sql.Identifier(user), parts)
    try:
        connection.execute(words)
    except InsufficientPrivilege as exc:
        raise ConfigurationError(
            f"{_user(connection)} may not give the tables to {ADMIN}: let a superuser run {words.as_string(connection)}; "
            "and then run this again"
        ) from exc
    if not _is_member(connection, user):
        raise ConfigurationError(
            f"{user} has no rights of roles whose member he is: let a superuser run ALTER ROLE {user} INHERIT;"
        )


def _is_member(connection: Connection, user: str) -> bool:
    query = f"SELECT pg_has_role(%(user)s, %(role)s, 'USAGE') AND pg_has_role(%(user)s, %(role)s, '{_acting(connection)}')"
    return connection.execute(query.encode(), {"user": user, "role": ADMIN}).fetchone() == (True,)


def _acting(connection: Connection) -> str:
    """What `pg_has_role` calls the right to act as a role."""
    return "SET" if connection.info.server_version >= _HAS_PARTS else "MEMBER"


def _withdraw_from_database(connection: Connection, role: str) -> None:
    """What was granted here, and not CONNECT, which somebody else has granted; from the database's owner nothing."""
    row = connection.execute(
        "SELECT quote_ident(datname) FROM pg_database, aclexplode(datacl) AS a WHERE datname = current_database()"
        " AND a.grantee = to_regrole(%s) AND a.grantee <> datdba AND pg_has_role(datdba, 'USAGE') LIMIT 1",
        [role],
    ).fetchone()
    if row is not None:
        connection.execute(f"REVOKE CREATE, TEMPORARY ON DATABASE {row[0]} FROM {role}".encode())


def _drop_unused(connection: Connection, role: str) -> None:
    """The user who made it is no member that counts."""
    members = "SELECT FROM pg_auth_members WHERE roleid = to_regrole(%s) AND pg_get_userbyid(member) <> current_user"
    if connection.execute(f"SELECT EXISTS ({members})".encode(), [role]).fetchone() == (True,):
        return
    connection.execute(
        f"DO $$ BEGIN DROP ROLE IF EXISTS {role};"
        " EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN NULL; END $$".encode()
    )


def _user(connection: Connection) -> str:
    return connection.info.user
