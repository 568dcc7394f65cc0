"""Putting a database in another's place, in one transaction: there is always one of that name, the old or the new."""

from __future__ import annotations

import psycopg
from psycopg import sql

from penstock_worker.errors import ConfigurationError
from penstock_worker.store.backup.scratch import Server

__all__ = ["copy_properties", "swap"]

#: How often clients that come back at once are sent away, before it is said that they do.
_TRIES = 20
#: A database does not change its name while others are connected; PostgreSQL waits 5 s for them to go.
_IN_USE = psycopg.errors.ObjectInUse


def swap(server: Server, fresh: str) -> None:
    """
    Give `fresh` the target's name, and the target that of `fresh`.

    Args:
        server: Where both are; the target may be missing.
        fresh: A database that nobody but its maker knows.

    Raises:
        ConfigurationError: It could not be done; all is as it was.
    """
    aside = f"{fresh}_old"
    steps = [(fresh, server.target)]
    if server.has(server.target):
        steps = [(server.target, aside), *steps, (aside, fresh)]
    for attempt in range(1, _TRIES + 1):
        try:
            _rename(server, steps)
        except _IN_USE as exc:
            if attempt == _TRIES:
                why = " ".join(str(exc).split())
                raise ConfigurationError(f"{server.target} stays in use: stop who uses it, then try again ({why})") from exc
        except psycopg.errors.InsufficientPrivilege as exc:
            raise ConfigurationError(
                f"the role {server.connection.info.user} may not replace {server.target}: {' '.join(str(exc).split())}; "
                "it must own the database, or restore into an empty one with --into"
            ) from exc
        else:
            return


def copy_properties(server: Server, fresh: str) -> None:
    """
    Give a database the owner, the settings and the rights of the target; they are no part of a dump.

    Raises:
        psycopg.Error: The role may not do so.
    """
    _copy_owner(server, fresh)
    _copy_settings(server, fresh)
    _copy_rights(server, fresh)


def _rename(server: Server, steps: list[tuple[str, str]]) -> None:
    with server.connection.transaction():
        _send_away(server, server.target)
        for old, new in steps:
            server.connection.execute(
                sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(old), sql.Identifier(new))
            )


def _send_away(server: Server, database: str) -> None:
    server.connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()", [database]
    )


def _copy_owner(server: Server, fresh: str) -> None:
    query = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s"
    row = server.connection.execute(query, [server.target]).fetchone()
    if row is not None:
        words = sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(fresh), sql.Identifier(str(row[0])))
        server.connection.execute(words)


def _copy_settings(server: Server, fresh: str) -> None:
    rows = server.connection.execute(
        "SELECT r.rolname, split_part(pair, '=', 1), substr(pair, strpos(pair, '=') + 1)"
        " FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole,"
        " unnest(setconfig) AS pair WHERE datname = %s",
        [server.target],
    ).fetchall()
    for role, name, value in rows:
        whose = sql.SQL("DATABASE {}").format(sql.Identifier(fresh))
        if role is not None:
            whose = sql.SQL("ROLE {} IN DATABASE {}").format(sql.Identifier(str(role)), sql.Identifier(fresh))
        setting = sql.Identifier(*str(name).split("."))
        with server.connection.transaction():
            # FROM CURRENT, for some settings are lists that are quoted in ways of their own.
            server.connection.execute("SELECT set_config(%s, %s, true)", [name, value])
            server.connection.execute(sql.SQL("ALTER {} SET {} FROM CURRENT").format(whose, setting))


def _copy_rights(server: Server, fresh: str) -> None:
    rows = server.connection.execute(
        "SELECT privilege_type, CASE grantee WHEN 0 THEN NULL ELSE pg_get_userbyid(grantee) END, is_grantable"
        " FROM pg_database, aclexplode(datacl) WHERE datname = %s",
        [server.target],
    ).fetchall()
    if not rows:
        return
    database = sql.Identifier(fresh)
    with server.connection.transaction():
        server.connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
        for privilege, role, is_grantable in rows:
            grantee = sql.SQL("PUBLIC") if role is None else sql.Identifier(str(role))
            words = sql.SQL("GRANT {} ON DATABASE {} TO {}").format(sql.SQL(str(privilege)), database, grantee)
            server.connection.execute(words + sql.SQL(" WITH GRANT OPTION" if is_grantable else ""))
