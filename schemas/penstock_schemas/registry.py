"""Which record types there are: Penstock's own, and those of installed packages and of `PENSTOCK_RECORDS`."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from importlib.metadata import entry_points
from types import ModuleType

from penstock_schemas.errors import DeclarationError
from penstock_schemas.record import Record, RecordType

__all__ = ["BUILTIN_MODULES", "Registry", "load_registry"]

BUILTIN_MODULES = (
    "penstock_schemas.records.translation",
    "penstock_schemas.records.scheduler",
    "penstock_schemas.records.orchestration",
    "penstock_schemas.records.guardian",
)
#: Entry-point group in which a package names its modules of record types.
ENTRY_POINT_GROUP = "penstock.records"


class Registry(Mapping[str, RecordType]):
    """
    Record types by event type, parents before their children.

    Raises:
        DeclarationError: Two types share a name or a table, or a parent is unknown or cannot have children.
    """

    def __init__(self, records: Iterable[type[Record]]) -> None:
        self.classes: dict[str, type[Record]] = {}
        for record in records:
            name = record.__record__.type
            if self.classes.setdefault(name, record) is not record:
                raise DeclarationError(f"{name} is declared twice: {self.classes[name]} and {record}")
        self._types = _parents_first({name: record.__record_type__ for name, record in self.classes.items()})
        _check_tables(self._types.values())

    def __getitem__(self, name: str) -> RecordType:
        return self._types[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._types)

    def __len__(self) -> int:
        return len(self._types)

    def with_retention(self, retention: Mapping[str, timedelta | None]) -> Registry:
        """The same types, some of which are kept longer or shorter than they declare; None keeps for ever."""
        other = copy.copy(self)
        other._types = {name: _kept_for(record, retention) for name, record in self.items()}  # noqa: SLF001  # of this class
        return other

    def owned_by(self, owner: str) -> list[RecordType]:
        """The types that a top-level package declares."""
        return [record for record in self.values() if record.owner == owner]


def _kept_for(record: RecordType, retention: Mapping[str, timedelta | None]) -> RecordType:
    if record.name not in retention:
        return record
    return replace(record, declaration=replace(record.declaration, retention=retention[record.name]))


def load_registry(modules: Iterable[str] = ()) -> Registry:
    """
    Every record type that can be found.

    Args:
        modules: Dotted names beside Penstock's own and those of the entry points `penstock.records`.

    Raises:
        DeclarationError: A module cannot be imported, or what it declares is wrong.
    """
    installed = [point.value for point in entry_points(group=ENTRY_POINT_GROUP)]
    names = dict.fromkeys([*BUILTIN_MODULES, *installed, *modules])
    return Registry(record for name in names for record in _records_in(_import(name)))


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        raise DeclarationError(f"record module {name!r} cannot be imported: {exc}") from exc


def _records_in(module: ModuleType) -> Iterator[type[Record]]:
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Record) and "__record__" in value.__dict__:
            yield value


def _parents_first(types: dict[str, RecordType]) -> dict[str, RecordType]:
    ordered: dict[str, RecordType] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise DeclarationError(f"{name} is its own ancestor: {' -> '.join((*path, name))}")
        parent = types[name].declaration.parent
        if parent is not None:
            _check_parent(types, name, parent.type)
            visit(parent.type, (*path, name))
        ordered.setdefault(name, types[name])

    for name in sorted(types):
        visit(name, ())
    return ordered


def _check_parent(types: dict[str, RecordType], child: str, parent: str) -> None:
    if parent not in types:
        raise DeclarationError(f"{child}: its parent {parent!r} is not declared")
    if types[parent].declaration.append_only or len(types[parent].key) != 1:
        raise DeclarationError(f"{child}: {parent!r} cannot be a parent, it has no single-column key that lasts")
    child_type = types[child]
    column = child_type.by_name[child_type.declaration.parent.field]  # type: ignore[union-attr]  # checked by the caller
    if column.kind is not types[parent].by_name[types[parent].key[0]].kind:
        raise DeclarationError(f"{child}: {column.name!r} and the key of {parent!r} are of different kinds")


def _check_tables(types: Iterable[RecordType]) -> None:
    seen: dict[str, str] = {}
    for record in types:
        other = seen.setdefault(record.declaration.table, record.name)
        if other != record.name:
            raise DeclarationError(f"{other} and {record.name} share the table {record.declaration.table!r}")
        if record.declaration.schema == "penstock":
            raise DeclarationError(f"{record.name}: the PostgreSQL schema 'penstock' is Penstock's own")
