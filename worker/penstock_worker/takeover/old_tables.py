"""Which table of the old file holds what, and which of its columns is which."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from penstock_schemas.record import RecordType
from penstock_schemas.registry import Registry
from penstock_worker.errors import ConfigurationError
from penstock_worker.takeover.sqlite_file import Value, quoted

__all__ = ["TYPES", "OldTable", "find_tables", "other_tables", "read_rows"]

#: What is taken over, parents first; each with the columns by which a row is dated.
TYPES: Mapping[str, Sequence[str]] = {
    "scheduler.pipeline": ("updated_at", "created_at"),
    "scheduler.job": ("updated_at", "last_run", "created_at"),
    "scheduler.execution": ("end_time", "start_time"),
}


@dataclass(frozen=True, slots=True)
class OldTable:
    """
    A table of the file.

    Args:
        record: What its rows become.
        name: Its own name.
        columns: Each of its columns, with the field that it becomes: one of the record's, or an unknown one of its own name.
    """

    record: RecordType
    name: str
    columns: Sequence[tuple[str, str]]

    @property
    def extra(self) -> list[str]:
        """The columns that the record type does not have."""
        return [column for column, field in self.columns if field not in self.record.by_name]

    @property
    def missing(self) -> list[str]:
        """The fields for which there is no column."""
        found = {field for _, field in self.columns}
        return [column.name for column in self.record.columns if column.name not in found]


def find_tables(connection: sqlite3.Connection, registry: Registry, chosen: Mapping[str, str]) -> list[OldTable]:
    """
    The tables that are taken over, parents first.

    Args:
        connection: The file's.
        registry: The record types.
        chosen: Names of tables by record type, or its last word, where a person said them; the others are found: `jobs`, or
            with any prefix, as `scheduler_jobs`.

    Raises:
        ConfigurationError: There are none, or it does not show which; or one has no key.
    """
    names = _names(connection)
    wanted = {_type_of(what): table for what, table in chosen.items()}
    found = [
        _table(connection, registry[type], name)
        for type in TYPES
        if (name := _chosen(names, wanted[type]) if type in wanted else _find(names, type)) is not None
    ]
    if found:
        return found
    kinds, there = ", ".join(map(_plural, TYPES)), ", ".join(names) or "no table at all"
    raise ConfigurationError(f"the file has none of the tables {kinds}, it has {there}; say which is which by --table job=NAME")


def other_tables(connection: sqlite3.Connection, tables: Sequence[OldTable]) -> list[str]:
    """The tables that are not taken over."""
    return [name for name in _names(connection) if name not in {table.name for table in tables}]


def read_rows(connection: sqlite3.Connection, table: OldTable) -> Iterator[tuple[Value, ...]]:
    """The rows in the order in which they lie in the file, one at a time."""
    columns = ", ".join(quoted(column) for column, _ in table.columns)
    yield from connection.execute(f"SELECT {columns} FROM {quoted(table.name)}")


def _names(connection: sqlite3.Connection) -> list[str]:
    query = (
        "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY name"
    )
    return [str(name) for (name,) in connection.execute(query)]


def _singular(type: str) -> str:
    return type.rpartition(".")[2]


def _plural(type: str) -> str:
    return _singular(type) + "s"


def _type_of(what: str) -> str:
    for type in TYPES:
        if what.lower() in (type, _singular(type), _plural(type)):
            return type
    raise ConfigurationError(f"--table {what}=...: there are {', '.join(map(_singular, TYPES))}")


def _chosen(names: Sequence[str], wanted: str) -> str:
    for name in names:
        if name.lower() == wanted.lower():
            return name
    raise ConfigurationError(f"the file has no table {wanted}, it has {', '.join(names)}")


def _find(names: Sequence[str], type: str) -> str | None:
    plural, singular = _plural(type), _singular(type)
    exact = [name for name in names if name.lower() == plural]
    prefixed = [name for name in names if name.lower().endswith(f"_{plural}")]
    single = [name for name in names if name.lower() == singular or name.lower().endswith(f"_{singular}")]
    like = exact or prefixed or single
    if len(like) > 1:
        raise ConfigurationError(f"{type} may be in {' or '.join(like)}: say which by --table {singular}={like[0]}")
    return like[0] if like else None


def _table(connection: sqlite3.Connection, record: RecordType, name: str) -> OldTable:
    fields = {column.name.lower(): column.name for column in record.columns}
    columns = [str(column) for (column,) in connection.execute("SELECT name FROM pragma_table_info(?) ORDER BY cid", [name])]
    table = OldTable(record, name, [(column, fields.get(column.lower(), column)) for column in columns])
    parent = record.declaration.parent
    needed = [*record.key, *([parent.field] if parent else [])]
    for column in needed:
        if column in table.missing:
            raise ConfigurationError(
                f"table {name} has no column {column}, which {record.name} needs: it has {', '.join(columns)}; "
                f"name another by --table {_singular(record.name)}=NAME"
            )
    return table
