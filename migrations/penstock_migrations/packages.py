"""Whose migrations there are: Penstock's own and those of packages that declare record types, each with its own history."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from penstock_schemas.record import RecordType
from penstock_schemas.registry import Registry
from penstock_worker.errors import ConfigurationError
from penstock_worker.store.own_schema import OWN_SCHEMA

__all__ = ["OWN_PACKAGE", "Package", "find_packages", "parse_locations"]

#: The entry-point group in which a package says where its migrations are: its name, then the dotted folder of versions.
ENTRY_POINT_GROUP = "penstock.migrations"
#: The package of Penstock's own tables and built-in record types.
OWN_PACKAGE = "penstock_schemas"


@dataclass(frozen=True, slots=True)
class Package:
    """One history of migrations: the top-level package `name`, whose version files are in `versions`."""

    name: str
    versions: Path | None
    records: tuple[RecordType, ...]

    @property
    def version_table(self) -> str:
        """Where this history notes how far it is, in the schema `penstock`."""
        return "alembic_version" if self.name == OWN_PACKAGE else f"alembic_version_{self.name}"

    @property
    def schemas(self) -> frozenset[str]:
        """The PostgreSQL schemas that are this package's."""
        own = {OWN_SCHEMA} if self.name == OWN_PACKAGE else set()
        return frozenset(own | {record.declaration.schema for record in self.records})

    def folder(self) -> Path:
        """
        The folder of versions.

        Raises:
            ConfigurationError: The package has not said where it is.
        """
        if self.versions is None:
            raise ConfigurationError(
                f"{self.name} declares record types but no migrations: give it the entry point "
                f'[{ENTRY_POINT_GROUP}] {self.name} = "{self.name}.migrations", or set PENSTOCK_MIGRATIONS={self.name}=FOLDER'
            )
        return self.versions


def find_packages(registry: Registry, locations: Mapping[str, Path] | None = None) -> list[Package]:
    """
    Every package of the registry, Penstock's first, then each after those whose types are parents of its own.

    Args:
        registry: The record types.
        locations: Folders of versions by package, from settings; they come before the entry points.

    Raises:
        ConfigurationError: Two packages share a PostgreSQL schema, or their types are each other's parents.
    """
    folders = {**_installed_folders(), **(locations or {}), OWN_PACKAGE: Path(__file__).parent / "versions"}
    owners = dict.fromkeys([OWN_PACKAGE, *(record.owner for record in registry.values())])
    packages = {owner: Package(owner, folders.get(owner), tuple(registry.owned_by(owner))) for owner in owners}
    _check_schemas(packages.values())
    return _by_dependency(packages, registry)


def parse_locations(text: str) -> dict[str, Path]:
    """
    The setting PENSTOCK_MIGRATIONS, `package=folder` pairs separated by commas.

    Raises:
        ConfigurationError: A part is not such a pair.
    """
    locations = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, sign, folder = part.partition("=")
        if not (name and sign and folder):
            raise ConfigurationError(f"PENSTOCK_MIGRATIONS: {part!r} is not package=folder")
        locations[name] = Path(folder).resolve()
    return locations


def _installed_folders() -> dict[str, Path]:
    """By the entry point's name, and by the package its value lies in where somebody has named it otherwise."""
    folders = {point.name: _folder_of(point.value) for point in entry_points(group=ENTRY_POINT_GROUP)}
    packages = {point.value.partition(".")[0]: point.name for point in entry_points(group=ENTRY_POINT_GROUP)}
    return {package: folders[name] for package, name in packages.items()} | folders


def _folder_of(dotted: str) -> Path:
    try:
        spec = importlib.util.find_spec(dotted)
    except ImportError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(f"the migrations folder {dotted!r} of the entry point {ENTRY_POINT_GROUP} is not a package")
    return Path(os.fspath(next(iter(spec.submodule_search_locations))))


def _check_schemas(packages: Iterable[Package]) -> None:
    owners: dict[str, str] = {}
    for package in packages:
        for schema in package.schemas:
            other = owners.setdefault(schema, package.name)
            if other != package.name:
                raise ConfigurationError(f"{other} and {package.name} both put tables into the PostgreSQL schema {schema!r}")


def _by_dependency(packages: dict[str, Package], registry: Registry) -> list[Package]:
    ordered: dict[str, Package] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise ConfigurationError(f"the record types of {' and '.join(path)} are each other's parents: move them together")
        for record in packages[name].records:
            parent = record.declaration.parent
            if parent and registry[parent.type].owner != name:
                visit(registry[parent.type].owner, (*path, name))
        ordered.setdefault(name, packages[name])

    for name in packages:
        visit(name, ())
    return list(ordered.values())
