"""
Databases beside the configured one: to try a backup in, or to prepare what is to take its place.

Each is called `penstock_scratch_` and something random, and its maker holds an advisory lock of that name as long as it lives:
what a killed one left is known by its lock being free, and dropped by the next.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from penstock_producers.transports.tls_errors import say_tls_error
from penstock_worker.errors import ConfigurationError
from penstock_worker.store.connection import Connection

__all__ = ["Server", "connect_to_server", "scratch_database"]

_PREFIX = "penstock_scratch_"
#: Databases that are there on most servers and that nobody works in.
_MEETING_PLACES = ("postgres", "template1")
#: The first half of the advisory lock, the second being the hash of the name; any number that nobody else uses.
_LOCK = 0x70656E73


class Server:
    """
    A database server, spoken to from a database that is not `target`.

    Args:
        url: The target database's.
        connection: To another database of the server, in autocommit.
    """

    def __init__(self, url: str, connection: Connection) -> None:
        self.url = url
        self.connection = connection
        self.target = str(conninfo_to_dict(url).get("dbname") or connection.info.user)

    @property
    def major(self) -> int:
        return self.connection.info.server_version // 10_000

    def url_of(self, database: str) -> str:
        return make_conninfo(self.url, dbname=database)

    def connect(self, database: str) -> Connection:
        return _connect(self.url_of(database))

    def has(self, database: str) -> bool:
        found = self.connection.execute("SELECT FROM pg_database WHERE datname = %s", [database]).fetchone()
        return found is not None

    def sessions(self, database: str) -> int:
        """How many clients are connected to a database."""
        row = self.connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'", [database]
        ).fetchone()
        assert row is not None  # an aggregate gives a row
        return int(str(row[0]))

    def drop(self, database: str) -> None:
        self.connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))


@contextmanager
def connect_to_server(url: str) -> Iterator[Server]:
    """
    The server of a database.

    Raises:
        ConfigurationError: It cannot be reached.
    """
    target = conninfo_to_dict(url).get("dbname")
    errors = []
    for place in _MEETING_PLACES:
        if place == target:
            continue
        try:
            connection = _connect(make_conninfo(url, dbname=place))
        except psycopg.OperationalError as exc:
            errors.append(say_tls_error(exc, "PENSTOCK_DATABASE") or " ".join(str(exc).split()))
            continue
        with connection:
            yield Server(url, connection)
            return
    raise ConfigurationError(f"the database's server cannot be used: {errors[0]}")


@contextmanager
def scratch_database(server: Server) -> Iterator[str]:
    """
    An empty database with the target's encoding and locale; dropped at the end, whatever happened.

    A caller that gives it another name keeps it, and has another one dropped that has got this name.

    Raises:
        ConfigurationError: The role may not make databases.
    """
    _drop_leftovers(server)
    name = f"{_PREFIX}{secrets.token_hex(6)}"
    server.connection.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", [_LOCK, name])
    try:
        _create(server, name)
        yield name
    finally:
        server.drop(name)
        server.connection.execute("SELECT pg_advisory_unlock(%s, hashtext(%s))", [_LOCK, name])


def _connect(url: str) -> Connection:
    options = "-c timezone=UTC -c statement_timeout=0"
    return psycopg.connect(url, autocommit=True, connect_timeout=10, options=options, application_name="penstock restore")


def _create(server: Server, name: str) -> None:
    like = _like(server)
    try:
        server.connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 {}").format(sql.Identifier(name), like))
    except psycopg.errors.InsufficientPrivilege as exc:
        user = server.connection.info.user
        raise ConfigurationError(
            f"the role {user} may not make databases, and a backup is loaded into one of its own first: ALTER ROLE {user} "
            "CREATEDB, or restore into an empty database with --into"
        ) from exc


def _like(server: Server) -> sql.Composable:
    """The words that make a database sort and compare as the target does; as the server does by default where there is none."""
    # Columns came and changed their names over the versions.
    query = "SELECT to_jsonb(d) || jsonb_build_object('encoding_name', pg_encoding_to_char(encoding)) FROM pg_database d"
    row = server.connection.execute(f"{query} WHERE datname = %s".encode(), [server.target]).fetchone()
    if row is None:
        return sql.SQL("")
    target: dict[str, str] = row[0]  # type: ignore[assignment]  # jsonb is read as a dict
    words = [("ENCODING", target["encoding_name"]), ("LC_COLLATE", target["datcollate"]), ("LC_CTYPE", target["datctype"])]
    provider = target.get("datlocprovider", "c")
    locale = target.get("datlocale") or target.get("daticulocale")
    if provider == "i" and locale:
        words += [("LOCALE_PROVIDER", "icu"), ("ICU_LOCALE", locale)]
    if provider == "b" and locale:
        words += [("LOCALE_PROVIDER", "builtin"), ("BUILTIN_LOCALE", locale)]
    return sql.SQL(" ").join(sql.SQL("{} {}").format(sql.SQL(word), sql.Literal(value)) for word, value in words)


def _drop_leftovers(server: Server) -> None:
    rows = server.connection.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", [_PREFIX]).fetchall()
    for (name,) in rows:
        parameters = [_LOCK, name]
        if server.connection.execute("SELECT pg_try_advisory_lock(%s, hashtext(%s))", parameters).fetchone() != (True,):
            continue
        # Another role's, say: it is not in the way.
        with suppress(psycopg.errors.InsufficientPrivilege):
            server.drop(str(name))
        server.connection.execute("SELECT pg_advisory_unlock(%s, hashtext(%s))", parameters)
