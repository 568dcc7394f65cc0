"""
Bringing a backup back: to see whether it can be (`verify_backup`), or in earnest (`restore_backup`).

A database with tables is not touched until all is ready: the backup is loaded into a database beside it, compared with its
manifest, migrated, and cleared of people who were erased since; then the two change names in one transaction. Whatever fails
before that leaves everything as it was. A database without tables is filled directly, which takes no right to make others.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from penstock_migrations.packages import parse_locations
from penstock_migrations.run import upgrade
from penstock_producers.transports.tls_errors import say_tls_error
from penstock_schemas.registry import Registry
from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import Settings
from penstock_worker.store.backup.header import Header, damage
from penstock_worker.store.backup.opened import Opened, open_backup
from penstock_worker.store.backup.scratch import Server, connect_to_server, scratch_database
from penstock_worker.store.backup.sums import list_tables
from penstock_worker.store.backup.swap import copy_properties, swap
from penstock_worker.store.connection import Connection
from penstock_worker.store.ownership import is_handed_over, settle_roles
from penstock_worker.store.privacy.erase import alone
from penstock_worker.store.privacy.restore import carry_fences, reapply
from penstock_worker.store.roles import ADMIN, create_roles

__all__ = ["Restored", "Target", "Verified", "look_at_target", "restore_backup", "verify_backup"]

#: Told of each step by name, and how far it is.
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True)
class Verified:
    """What became of a trial; `problems` are lines for people, none where the backup is good."""

    backup_id: str
    tables: int
    rows: int
    seconds: float
    problems: list[str]


@dataclass(frozen=True, slots=True)
class Restored:
    """
    What a restore did.

    Args:
        database: Its name.
        replaced: Whether there was one before with tables in it.
        migrated: Revisions that were applied because the backup is older than the code.
        erased: What was erased anew, see `store.privacy.restore`.
        left_out: `owners`, `grantees`: this server lacks some of the roles.
    """

    backup_id: str
    database: str
    tables: int
    rows: int
    seconds: float
    replaced: bool
    migrated: list[str] = field(default_factory=list)
    erased: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Target:
    """What a restore would meet: clients that are connected, and tables with rows that it would replace."""

    is_there: bool
    sessions: int
    tables: int
    tables_with_rows: list[str]


def verify_backup(
    path: Path, header: Header, settings: Settings, *, identity_file: Path | None = None, progress: Progress
) -> Verified:
    """
    Check the files of a backup, then load it into a database beside the configured one, and compare rows and checksums of every
    table. That database is dropped afterwards.

    Raises:
        ConfigurationError: It could not be tried: no key, no right to make a database, no programs.
    """
    begin = time.monotonic()
    problems = damage(path, header, lambda done, total: progress("files", done, total))
    if problems:
        return Verified(header.backup_id, 0, 0, _seconds_since(begin), problems)
    opened = open_backup(path, header, identity_file)
    with connect_to_server(settings.database) as server, scratch_database(server) as name, server.connect(name) as connection:
        progress("loading", 0, None)
        opened.load(connection, server.url_of(name), programs_folder=settings.postgres_programs, is_bare=True)
        problems = opened.compare(connection, lambda done, total: progress("comparing", done, total))
    manifest = opened.manifest
    return Verified(header.backup_id, len(manifest.tables), manifest.rows, _seconds_since(begin), problems)


def look_at_target(url: str) -> Target:
    """
    What a restore into this database would meet.

    Raises:
        ConfigurationError: Its server cannot be reached.
    """
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=10, application_name="penstock restore") as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND backend_type = 'client backend'"
            ).fetchone()
            assert row is not None  # an aggregate gives a row
            tables = list_tables(connection)
            return Target(True, int(row[0]), len(tables), _with_rows(connection, tables))
    except psycopg.OperationalError as exc:
        # An error of the connection has no code.
        if re.search(r'database "[^"]*" does not exist', str(exc)):
            return Target(False, 0, 0, [])
        reason = say_tls_error(exc, "PENSTOCK_DATABASE") or " ".join(str(exc).split())
        raise ConfigurationError(f"the database cannot be used: {reason}") from exc


def restore_backup(
    path: Path,
    header: Header,
    settings: Settings,
    registry: Registry,
    *,
    identity_file: Path | None = None,
    progress: Progress,
) -> Restored:
    """
    Put a backup in the place of the configured database, whose old content is gone then. Who may is asked before.

    Args:
        path: The backup's folder.
        header: Its header.
        settings: Say which database, and where PostgreSQL's programs are.
        registry: The record types, by which it is migrated.
        identity_file: Secret keys, where it is encrypted.
        progress: Told how far it is.

    Raises:
        ConfigurationError: It could not be done; the database is as it was.
    """
    begin = time.monotonic()
    if problems := damage(path, header, lambda done, total: progress("files", done, total)):
        raise ConfigurationError(f"the backup {header.backup_id} is damaged: {'; '.join(problems)}; nothing was changed")
    opened = open_backup(path, header, identity_file)
    target = look_at_target(settings.database)
    restore = _Restore(opened, settings, registry, progress)
    is_empty = target.is_there and not target.tables
    database = restore.fill() if is_empty else restore.replace(has_old=target.is_there)
    return Restored(
        header.backup_id,
        database,
        len(opened.manifest.tables),
        opened.manifest.rows,
        _seconds_since(begin),
        target.tables > 0,
        restore.migrated,
        restore.erased,
        restore.left_out,
    )


class _Restore:
    """One restore, and what it notes on its way."""

    def __init__(self, opened: Opened, settings: Settings, registry: Registry, progress: Progress) -> None:
        self._opened, self._settings, self._registry, self._progress = opened, settings, registry, progress
        self.migrated: list[str] = []
        self.erased: dict[str, Any] = {}
        self.left_out: list[str] = []
        #: Whether the tables are to be `penstock_admin`'s: as they were, or as they are in the database that is replaced.
        self._is_handed_over = ADMIN in opened.manifest.owners

    def fill(self) -> str:
        """Load into the configured database, which has no tables, in one transaction."""
        url = self._settings.database
        with _connect(url) as connection:
            self._load(connection, url, is_whole_or_nothing=True)
            try:
                self._migrate(connection, url)
            except ConfigurationError as exc:
                raise ConfigurationError(f"{exc}; the backup is restored but not migrated: then `penstock migrate up`") from exc
            return connection.info.dbname

    def replace(self, *, has_old: bool) -> str:
        """Load into a database beside the configured one, then exchange them."""
        if has_old:
            with _connect(self._settings.database) as old:
                self._is_handed_over |= is_handed_over(old)
        with connect_to_server(self._settings.database) as server, scratch_database(server) as name:
            url = server.url_of(name)
            with _connect(url) as connection:
                self._load(connection, url)
                self._migrate(connection, url)
                if has_old:
                    copy_properties(server, name)
                    # Last of all, so that no erasure comes between.
                    self._erase_anew(server, connection)
            self._progress("exchanging", 0, None)
            swap(server, name)
            return server.target

    def _load(self, connection: Connection, url: str, *, is_whole_or_nothing: bool = False) -> None:
        self._progress("loading", 0, None)
        programs = self._settings.postgres_programs
        # Of another cluster, perhaps: what cannot be made is left out.
        create_roles(connection)
        self.left_out = self._opened.load(connection, url, programs_folder=programs, is_whole_or_nothing=is_whole_or_nothing)
        problems = self._opened.compare(connection, lambda done, total: self._progress("comparing", done, total))
        if problems:
            raise ConfigurationError(f"what was restored is not what was backed up: {'; '.join(problems)}")

    def _migrate(self, connection: Connection, url: str) -> None:
        self._progress("migrating", 0, None)
        self.migrated = upgrade(url, self._registry, parse_locations(self._settings.migrations))
        if self._is_handed_over:
            self._hand_over(connection)
        # The run that made the backup is in it, under way.
        connection.execute(
            "UPDATE penstock.maintenance_runs SET state = 'done', ended_at = now() WHERE job = 'backup' AND state = 'running'"
        )

    def _hand_over(self, connection: Connection) -> None:
        try:
            settle_roles(connection, self._registry, hands_over=True)
        except ConfigurationError:
            # The rows are what was asked for; whose tables they are can be changed afterwards.
            self.left_out = sorted({*self.left_out, "owners"})

    def _erase_anew(self, server: Server, connection: Connection) -> None:
        """No erasure begins in the old database while it is being done."""
        self._progress("erasing", 0, None)
        settings = self._settings.with_database(server.url_of(connection.info.dbname))
        with _connect(server.url) as old, alone(old):
            self.erased = reapply(connection, self._registry, carry_fences(old), settings)


@contextmanager
def _connect(url: str) -> Iterator[Connection]:
    options = "-c timezone=UTC -c statement_timeout=0"
    with psycopg.connect(
        url, autocommit=True, connect_timeout=10, options=options, application_name="penstock restore"
    ) as connection:
        yield connection


def _with_rows(connection: Connection, tables: list[tuple[str, str]]) -> list[str]:
    """Those that have any, as they are called in a manifest."""
    query = psycopg.sql.SQL("SELECT EXISTS (SELECT FROM ONLY {})")
    return [
        f"{schema}.{name}"
        for schema, name in tables
        if connection.execute(query.format(psycopg.sql.Identifier(schema, name))).fetchone() == (True,)
    ]


def _seconds_since(begin: float) -> float:
    return round(time.monotonic() - begin, 3)
