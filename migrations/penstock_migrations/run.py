"""
Migrations as functions: up, down, some steps, a new one, and whether a database is up to date.

Alembic's `Config` is built here, in code; there is no alembic.ini to find. Two runs at once wait for each other.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from penstock_migrations.autogenerate import Comparison
from penstock_migrations.packages import OWN_PACKAGE, Package, find_packages
from penstock_schemas.registry import Registry
from penstock_worker.errors import ConfigurationError
from penstock_worker.store.partitions import ensure_partitions
from penstock_worker.store.tables import OWN_SCHEMA, metadata_for

__all__ = ["State", "check_migrated", "create", "default_package", "downgrade", "states", "steps", "upgrade"]

Locations = Mapping[str, Path]

#: Held by a run of migrations; any fixed number that nobody else uses.
_LOCK = 0x70656E6D6967
#: A role named like one of our schemas would make it the default one, and Alembic calls the default schema None.
_CONNECT_ARGS = {"connect_timeout": 10, "options": "-c search_path=public"}
#: Seconds a migration waits for a table, and with it everybody who waits behind it.
_LOCK_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class State:
    """How far one package's history is in a database; None where it has not begun or has no migrations."""

    package: str
    current: str | None
    head: str | None

    @property
    def is_current(self) -> bool:
        """Whether nothing is left to do."""
        return self.current == self.head


def upgrade(database_url: str, registry: Registry, locations: Locations | None = None) -> list[str]:
    """
    Bring a database up to date: Penstock's tables, then each package's, then the partitions of append-only types.

    Returns:
        The revisions that were applied, `package:revision`.

    Raises:
        ConfigurationError: The database cannot be reached, or a package has no migrations.
    """
    applied = []
    with _connect(database_url) as connection:
        for package in find_packages(registry, locations):
            before = _current(connection, package)
            _run(connection, registry, package, "upgrade", "head")
            applied += [f"{package.name}:{revision}" for revision in _between(package, before, _current(connection, package))]
    with psycopg.connect(database_url, autocommit=True) as raw:
        for record in registry.values():
            ensure_partitions(raw, record)
    return applied


def downgrade(
    database_url: str, registry: Registry, package: str, revision: str = "-1", locations: Locations | None = None
) -> State:
    """
    Undo migrations of one package, the last one by default, `base` for all: what they made is dropped with what is in it.

    Raises:
        ConfigurationError: There is no such package or revision.
    """
    chosen = _choose(registry, package, locations)
    with _connect(database_url) as connection:
        _run(connection, registry, chosen, "downgrade", revision)
        return _state(connection, chosen)


def steps(database_url: str, registry: Registry, package: str, count: int, locations: Locations | None = None) -> State:
    """
    Go some migrations of one package up, or down where `count` is negative.

    Raises:
        ConfigurationError: There are not so many.
    """
    if count < 0:
        return downgrade(database_url, registry, package, str(count), locations)
    chosen = _choose(registry, package, locations)
    with _connect(database_url) as connection:
        _run(connection, registry, chosen, "upgrade", f"+{count}")
        return _state(connection, chosen)


def create(
    database_url: str, registry: Registry, package: str, message: str, locations: Locations | None = None
) -> Path | None:
    """
    Write the migration that a package's declarations ask for.

    Args:
        database_url: A database that is up to date; it is read only.
        registry: The record types.
        package: Whose.
        message: What changes, a few words; part of the file's name.
        locations: Folders of versions by package, beside the entry points.

    Returns:
        The file, or None if nothing has changed.

    Raises:
        ConfigurationError: The change cannot be made in place, or the database is not up to date.
    """
    chosen = _choose(registry, package, locations)
    chosen.folder().mkdir(parents=True, exist_ok=True)
    with _connect(database_url) as connection:
        if not _state(connection, chosen).is_current:
            raise ConfigurationError("the database is behind the migrations there are: run `penstock migrate up` first")
        config = _config(connection, registry, chosen)
        try:
            script = command.revision(config, message=message, autogenerate=True)
        except CommandError as exc:
            raise ConfigurationError(str(exc)) from exc
        if config.attributes["comparison"].is_empty or script is None or isinstance(script, list):
            return None
        return Path(script.path)


def states(database_url: str, registry: Registry, locations: Locations | None = None) -> list[State]:
    """How far every package is."""
    with _connect(database_url, is_writing=False) as connection:
        return [_state(connection, package) for package in find_packages(registry, locations)]


def check_migrated(database_url: str, registry: Registry, locations: Locations | None = None) -> None:
    """
    Nothing, if the database is up to date.

    Raises:
        ConfigurationError: It is not, or cannot be reached.
    """
    behind = [state.package for state in states(database_url, registry, locations) if not state.is_current]
    if behind:
        raise ConfigurationError(f"the database is not migrated ({', '.join(behind)}): run `penstock migrate up`")


@contextmanager
def _connect(database_url: str, *, is_writing: bool = True) -> Iterator[sa.Connection]:
    """A connection under the lock of all migrations; each migration commits by itself."""
    address = "postgresql+psycopg://" + database_url.partition("://")[2]
    engine = sa.create_engine(address, poolclass=sa.NullPool, connect_args=_CONNECT_ARGS)
    try:
        with engine.connect() as connection:
            if is_writing:
                connection.execute(sa.text("SELECT pg_advisory_lock(:lock)"), {"lock": _LOCK})
                connection.execute(sa.text(f"SET lock_timeout = '{_LOCK_TIMEOUT_S}s'"))
                connection.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {OWN_SCHEMA}"))
                connection.commit()
            yield connection
    except sa.exc.OperationalError as exc:
        raise ConfigurationError(f"the database cannot be used: {' '.join(str(exc.orig).split())}") from exc
    finally:
        engine.dispose()


def _config(connection: sa.Connection, registry: Registry, package: Package) -> Config:
    config = Config(cmd_opts=Namespace(quiet=True))
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("version_locations", str(package.folder()))
    config.set_main_option("path_separator", "newline")
    config.attributes["connection"] = connection
    config.attributes["metadata"] = metadata_for(registry)
    config.attributes["comparison"] = Comparison(package, connection)
    connection.commit()
    return config


def _run(connection: sa.Connection, registry: Registry, package: Package, action: str, revision: str) -> None:
    if package.versions is None or not package.versions.is_dir():
        package.folder().mkdir(parents=True, exist_ok=True)
    config = _config(connection, registry, package)
    try:
        getattr(command, action)(config, revision)
    except CommandError as exc:
        raise ConfigurationError(f"{package.name}: {exc}") from exc
    connection.commit()


def _choose(registry: Registry, name: str, locations: Locations | None) -> Package:
    packages = {package.name: package for package in find_packages(registry, locations)}
    if name not in packages:
        raise ConfigurationError(f"no package {name!r} declares record types; there are {', '.join(packages)}")
    return packages[name]


def _state(connection: sa.Connection, package: Package) -> State:
    return State(package.name, _current(connection, package), _script(package).get_current_head())


def _current(connection: sa.Connection, package: Package) -> str | None:
    options = {"version_table": package.version_table, "version_table_schema": OWN_SCHEMA}
    current = MigrationContext.configure(connection, opts=options).get_current_revision()
    connection.commit()
    return current


def _script(package: Package) -> ScriptDirectory:
    return ScriptDirectory(str(Path(__file__).parent), version_locations=[str(package.folder())])


def _between(package: Package, before: str | None, after: str | None) -> list[str]:
    if after is None or before == after:
        return []
    revisions = _script(package).iterate_revisions(after, before or "base")
    return [revision.revision for revision in revisions][::-1]


def default_package(registry: Registry, locations: Locations | None = None) -> str:
    """The package that `create`, `down` and `steps` mean when none is named: the only one beside Penstock's own."""
    others = [package.name for package in find_packages(registry, locations) if package.name != OWN_PACKAGE]
    if len(others) > 1:
        raise ConfigurationError(f"say which package with --package: {', '.join(others)}")
    return others[0] if others else OWN_PACKAGE
