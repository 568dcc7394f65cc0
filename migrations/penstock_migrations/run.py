"""
Migrations as functions: up, down, some steps, a new one, and whether a database is up to date.

Alembic's `Config` is built here, in code; there is no alembic.ini to find.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from alembic.util import CommandError

from penstock_migrations.autogenerate import Comparison
from penstock_migrations.heads import noted_revisions, version_table
from penstock_migrations.operations import drop_schema_if_empty
from penstock_migrations.packages import OWN_PACKAGE, Package, find_packages
from penstock_migrations.session import connect, open_connection, patiently
from penstock_schemas.registry import Registry
from penstock_worker.errors import ConfigurationError
from penstock_worker.store.connection import Connection
from penstock_worker.store.own_schema import OWN_SCHEMA
from penstock_worker.store.ownership import settle_roles
from penstock_worker.store.partitions import ensure_partitions
from penstock_worker.store.promotion import promote_all
from penstock_worker.store.roles import missing_roles, statement_for
from penstock_worker.store.tables import metadata_for

__all__ = [
    "Created",
    "State",
    "check_migrated",
    "create",
    "default_package",
    "downgrade",
    "lacking_roles",
    "states",
    "steps",
    "upgrade",
]

Locations = Mapping[str, Path]

#: Names of new version files sort by day.
_FILE_TEMPLATE = "%(year)d_%(month).2d_%(day).2d_%(rev)s_%(slug)s"


@dataclass(frozen=True, slots=True)
class State:
    """
    How far one package's history is in a database.

    Args:
        package: Whose history.
        current: The revision the database is at, None before the first.
        head: The newest revision that is installed here, None where there is none.
        pending: The revisions to apply, in their order. None is pending in a database that a newer release has migrated.
        is_further: A newer release has migrated it: it is at a revision that is not installed here.
    """

    package: str
    current: str | None
    head: str | None
    pending: tuple[str, ...]
    is_further: bool = False

    @property
    def is_current(self) -> bool:
        """Whether nothing is left to do."""
        return not self.pending


@dataclass(frozen=True, slots=True)
class Created:
    """What `create` did: the file, None if nothing has changed, and what stays in the database though no longer declared."""

    path: Path | None
    kept: tuple[str, ...]


def upgrade(
    database_url: str, registry: Registry, locations: Locations | None = None, *, hands_over: bool = False
) -> list[str]:
    """
    Bring a database up to date: Penstock's tables, then each package's.

    After that, make the partitions of append-only types, move what old workers have put into `_extra` although it has a column
    by now, and lay down what the database's roles may do, as far as there are some.

    Args:
        database_url: The database.
        registry: The record types.
        locations: Folders of versions by package, beside the entry points.
        hands_over: Make the role `penstock_admin` the owner of all tables, see `penstock_worker.store.ownership`.

    Returns:
        The revisions that were applied, `package:revision`.

    Raises:
        ConfigurationError: The database cannot be used, or a package has no migrations; the others are applied first.
    """
    packages = find_packages(registry, locations)
    applied = []
    with connect(database_url) as connection:
        for package in packages:
            if package.versions is not None and package.versions.is_dir():
                done = _run(connection, registry, package, "upgrade", "head")
                applied += [f"{package.name}:{revision}" for revision in done]
        with open_connection(database_url) as raw:
            for record in registry.values():
                patiently(connection, partial(ensure_partitions, raw, record))
                patiently(connection, partial(promote_all, raw, record))
            patiently(connection, partial(settle_roles, raw, registry, hands_over=hands_over))
    for package in packages:
        package.folder()
    return applied


def downgrade(
    database_url: str, registry: Registry, package: str, revision: str = "-1", locations: Locations | None = None
) -> State:
    """
    Undo migrations of one package, the last one by default, `base` for all: what they made is dropped with what is in it.

    Raises:
        ConfigurationError: There is no such package or revision, or other packages' tables stand on what would go.
    """
    chosen = _choose(registry, package, locations)
    with connect(database_url) as connection:
        _run(connection, registry, chosen, "downgrade", revision)
        state = _state(connection, chosen)
        if state.current is None:
            _forget(database_url, chosen)
    return state


def steps(database_url: str, registry: Registry, package: str, count: int, locations: Locations | None = None) -> State:
    """
    Go some migrations of one package up, or down where `count` is negative.

    Raises:
        ConfigurationError: There are not so many.
    """
    if count < 0:
        return downgrade(database_url, registry, package, str(count), locations)
    chosen = _choose(registry, package, locations)
    with connect(database_url) as connection:
        if count:
            _run(connection, registry, chosen, "upgrade", f"+{count}")
        return _state(connection, chosen)


def create(
    database_url: str,
    registry: Registry,
    package: str,
    message: str,
    locations: Locations | None = None,
    *,
    is_contracting: bool = False,
) -> Created:
    """
    Write the migration that a package's declarations ask for.

    Args:
        database_url: A database that is up to date; it is only read.
        registry: The record types.
        package: Whose.
        message: What changes, a few words; part of the file's name.
        locations: Folders of versions by package, beside the entry points.
        is_contracting: Drop columns and tables that are no longer declared. The workers that knew them must be gone.

    Raises:
        ConfigurationError: The change cannot be made in place, or the database is not up to date.
    """
    chosen = _choose(registry, package, locations)
    chosen.folder().mkdir(parents=True, exist_ok=True)
    check_migrated(database_url, registry, locations)
    with connect(database_url, is_alone=False) as connection:
        config = _config(connection, registry, chosen, is_contracting=is_contracting)
        comparison: Comparison = config.attributes["comparison"]
        try:
            script = command.revision(config, message=message, autogenerate=True)
        except CommandError as exc:
            raise ConfigurationError(f"{chosen.name}: {exc}") from exc
    path = None if comparison.is_empty or script is None or isinstance(script, list) else Path(script.path)
    return Created(path, tuple(comparison.kept))


def states(database_url: str, registry: Registry, locations: Locations | None = None) -> list[State]:
    """
    How far every package is.

    Raises:
        ConfigurationError: The database cannot be used.
    """
    with connect(database_url, is_alone=False) as connection:
        return [_state(connection, package) for package in find_packages(registry, locations)]


def check_migrated(database: str | Connection, registry: Registry, locations: Locations | None = None) -> None:
    """
    Nothing, if every migration that is installed here has been applied. A database that is further is fine: an old worker
    goes on beside new ones.

    Args:
        database: A URL, or an open connection.
        registry: The record types.
        locations: Folders of versions by package, beside the entry points.

    Raises:
        ConfigurationError: The database is behind, or cannot be reached.
    """
    packages = find_packages(registry, locations)
    if isinstance(database, str):
        with connect(database, is_alone=False) as connection:
            behind = [package.name for package in packages if not _state(connection, package).is_current]
    else:
        behind = [package.name for package in packages if _pending(package, noted_revisions(database, package))]
    if behind:
        raise ConfigurationError(f"the database is not migrated ({', '.join(behind)}): run `penstock migrate up`")


def lacking_roles(database_url: str) -> str | None:
    """Which roles there are not because the user may not make them, and who makes them; one line, None where all are there."""
    with open_connection(database_url) as connection:
        missing = missing_roles(connection)
        return (
            f"{connection.info.user} may not make the roles {', '.join(missing)}; to use them let a superuser run "
            f"{statement_for(missing)} and then run `penstock migrate up` again"
            if missing
            else None
        )


def default_package(registry: Registry, locations: Locations | None = None) -> str:
    """The package that `create`, `down` and `steps` mean when none is named: the only one beside Penstock's own."""
    others = [package.name for package in find_packages(registry, locations) if package.name != OWN_PACKAGE]
    if len(others) > 1:
        raise ConfigurationError(f"say which package with --package: {', '.join(others)}")
    return others[0] if others else OWN_PACKAGE


def _config(connection: sa.Connection, registry: Registry, package: Package, *, is_contracting: bool = False) -> Config:
    config = Config(cmd_opts=Namespace(quiet=True))
    config.set_main_option("script_location", _escaped(Path(__file__).parent))
    config.set_main_option("version_locations", _escaped(package.folder()))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("file_template", _FILE_TEMPLATE.replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["registry"] = registry
    config.attributes["metadata"] = metadata_for(registry)
    config.attributes["comparison"] = Comparison(package, registry, connection, is_contracting=is_contracting)
    config.attributes["done"] = []
    connection.commit()
    return config


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")


def _run(connection: sa.Connection, registry: Registry, package: Package, action: str, revision: str) -> list[str]:
    """Go up or down; returns the revisions that were passed. Each is a transaction: a second try begins where one failed."""
    if not package.folder().is_dir():
        raise ConfigurationError(f"{package.name}: there are no migrations in {package.versions}")
    config = _config(connection, registry, package)
    try:
        patiently(connection, partial(getattr(command, action), config, revision))
    except CommandError as exc:
        raise ConfigurationError(f"{package.name}: {exc}") from exc
    done: list[str] = config.attributes["done"]
    return done


def _forget(database_url: str, package: Package) -> None:
    """A history undone to its beginning leaves nothing behind, and the last one not even our schema."""
    with open_connection(database_url) as connection, connection.transaction():
        connection.execute(f"DROP TABLE IF EXISTS {version_table(package)}")
        drop_schema_if_empty(connection, OWN_SCHEMA)


def _choose(registry: Registry, name: str, locations: Locations | None) -> Package:
    packages = {package.name: package for package in find_packages(registry, locations)}
    if name not in packages:
        raise ConfigurationError(f"no package {name!r} declares record types; there are {', '.join(packages)}")
    return packages[name]


def _state(connection: sa.Connection, package: Package) -> State:
    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg.Connection), "session.py has opened it"
    noted = noted_revisions(raw, package)
    raw.rollback()
    script = _script(package)
    heads = script.get_heads() if script else []
    return State(
        package.name,
        "+".join(noted) or None,
        "+".join(heads) or None,
        _pending(package, noted),
        is_further=script is not None and not _known(script).keys() >= set(noted),
    )


def _pending(package: Package, noted: list[str]) -> tuple[str, ...]:
    script = _script(package)
    if script is None:
        return ()
    known = _known(script)
    if not known.keys() >= set(noted):
        # A newer release, which knows this one's migrations, has been here.
        return ()
    applied = {step.revision for step in script.iterate_revisions(tuple(noted), "base")} if noted else set()
    return tuple(revision for revision in reversed(known) if revision not in applied)


def _known(script: ScriptDirectory) -> dict[str, Script]:
    """The revisions that are installed here, the newest first."""
    return {step.revision: step for step in script.walk_revisions()}


def _script(package: Package) -> ScriptDirectory | None:
    if package.versions is None or not package.versions.is_dir():
        return None
    return ScriptDirectory(str(Path(__file__).parent), version_locations=[str(package.versions)])
