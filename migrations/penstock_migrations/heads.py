"""
Whether a database has the newest migrations, without Alembic: a pool child that only asks this need not load it, which takes
0.4 s and 22 MB.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path

from penstock_migrations.packages import Package, find_packages
from penstock_schemas.registry import Registry
from penstock_worker.store.connection import Connection
from penstock_worker.store.own_schema import OWN_SCHEMA
from penstock_worker.store.upsert import literal, quote

__all__ = ["is_at_heads", "noted_revisions", "version_table"]

#: What a version file says of its place, in the form that Alembic's template gives it.
_PLACE = re.compile(r"^(revision|down_revision)\b[^=\n]*=[ \t]*(.+)$", re.MULTILINE)


def is_at_heads(connection: Connection, registry: Registry, locations: Mapping[str, Path] | None = None) -> bool:
    """
    Whether every package's history ends in the database where it ends here.

    False says little: the database may be behind, or further, or a version file may be written in another form. Then
    `penstock_migrations.run.check_migrated` knows.
    """
    packages = find_packages(registry, locations)
    return all(noted_revisions(connection, package) == _heads(package) for package in packages)


def noted_revisions(connection: Connection, package: Package) -> list[str]:
    """The revisions in a package's version table: none before the first, several between two branches and their merge."""
    table = version_table(package)
    if connection.execute(f"SELECT to_regclass({literal(table)})").fetchone() == (None,):
        return []
    return sorted(str(revision) for (revision,) in connection.execute(f"SELECT version_num FROM {table}").fetchall())


def version_table(package: Package) -> str:
    """Where a package's history notes how far it is, quoted."""
    return f"{quote(OWN_SCHEMA)}.{quote(package.version_table)}"


def _heads(package: Package) -> list[str] | None:
    """The revisions that no other follows; None if a file does not say its place in the usual form."""
    if package.versions is None or not package.versions.is_dir():
        return []
    revisions: set[str] = set()
    followed: set[str] = set()
    for file in package.versions.glob("[!_]*.py"):
        place = dict(_PLACE.findall(file.read_text()))
        try:
            revision, before = (ast.literal_eval(place[name]) for name in ("revision", "down_revision"))
        except (KeyError, ValueError, SyntaxError):
            return None
        revisions.add(revision)
        followed.update((before,) if isinstance(before, str) else before or ())
    return sorted(revisions - followed)
