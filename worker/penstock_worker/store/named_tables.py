"""The tables that a person may name: those of record types, and Penstock's own."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from psycopg import sql

from penstock_schemas.record import RecordType
from penstock_schemas.registry import Registry
from penstock_worker.errors import ConfigurationError

__all__ = ["PARTS_OF", "NamedTable", "all_tables", "find_table"]

#: The relation that `quoted` names and its partitions, as `relid`; nothing where it is not there. `pg_partition_tree` would
#: wait for a table that somebody has locked.
PARTS_OF = """
    (SELECT to_regclass(quoted)::oid AS relid WHERE to_regclass(quoted) IS NOT NULL
     UNION ALL SELECT inhrelid FROM pg_inherits WHERE inhparent = to_regclass(quoted))
"""
#: How like a name must be to be offered for a wrong one, and how many are.
_LIKENESS, _OFFERED = 0.5, 3


@dataclass(frozen=True, slots=True)
class NamedTable:
    """A table; `record` is None for Penstock's own."""

    schema: str
    name: str
    record: RecordType | None = None

    @property
    def full_name(self) -> str:
        """`schema.table`."""
        return f"{self.schema}.{self.name}"

    @property
    def names(self) -> tuple[str, ...]:
        """What a person may call it."""
        return (self.full_name, *([self.record.name] if self.record else []))

    @property
    def identifier(self) -> sql.Identifier:
        """As it stands in a statement."""
        return sql.Identifier(self.schema, self.name)


def all_tables(registry: Registry) -> list[NamedTable]:
    """Those of record types, parents before their children, then Penstock's own by name."""
    # Here and not above: workers know the jobs that ask for it, and do without the memory of SQLAlchemy until then.
    import sqlalchemy as sa

    from penstock_worker.store.own_tables import add_own_tables

    metadata = sa.MetaData()
    add_own_tables(metadata)
    own = sorted((str(table.schema), table.name) for table in metadata.tables.values())
    of_records = [NamedTable(record.declaration.schema, record.declaration.table_name, record) for record in registry.values()]
    return of_records + [NamedTable(schema, name) for schema, name in own]


def find_table(registry: Registry, name: str) -> NamedTable:
    """
    The table of that name, or of the record type of that name.

    Raises:
        ConfigurationError: There is none; the message has names that are like it.
    """
    tables = {known: table for table in all_tables(registry) for known in table.names}
    if name in tables:
        return tables[name]
    near = get_close_matches(name, tables, n=_OFFERED, cutoff=_LIKENESS)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(tables)}"
    raise ConfigurationError(f"there is no table or record type {name!r}; {hint}")
