"""
Every table as SQLAlchemy data: one per record type beside Penstock's own, in ONE MetaData, so that parents may be foreign.

Only Alembic reads these; the upsert is generated from the record types themselves.

The bookkeeping columns of a record's table:

| column                             | meaning                                                                             |
|------------------------------------|-------------------------------------------------------------------------------------|
| `_version`, `_event`               | highest (version, event id) of the upserts that live; NULL: tombstone or placeholder |
| `_oldest`                          | lowest version of any upsert; a child falls with its parent by it                   |
| `_deleted_version`, `_deleted_event` | the last delete                                                                   |
| `_stamps`                          | who won each column, where (`_version`, `_event`) does not tell it; see `upsert`    |
| `_extra`                           | unknown fields                                                                      |
| `_stored_at`                       | when the row last changed, by the database's clock                                  |
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from penstock_schemas.column import Column, Kind
from penstock_schemas.declaration import Index
from penstock_schemas.record import RecordType
from penstock_schemas.registry import Registry
from penstock_worker.store.own_tables import add_own_tables

__all__ = ["bookkeeping_columns", "metadata_for", "sql_type"]

_TYPES: dict[Kind, sa.types.TypeEngine[Any]] = {
    Kind.TEXT: sa.Text(),
    Kind.BIGINT: sa.BigInteger(),
    Kind.DOUBLE: sa.Double(),
    Kind.BOOLEAN: sa.Boolean(),
    Kind.TIMESTAMPTZ: sa.TIMESTAMP(timezone=True),
    Kind.DATE: sa.Date(),
    Kind.UUID: sa.Uuid(),
    Kind.NUMERIC: sa.Numeric(),
    Kind.JSONB: postgresql.JSONB(),
}
_NOW = sa.text("now()")


def metadata_for(registry: Registry) -> sa.MetaData:
    """All tables; parents come before their children in `sorted_tables`."""
    metadata = sa.MetaData()
    add_own_tables(metadata)
    for record in registry.values():
        _record_table(metadata, registry, record)
    return metadata


def bookkeeping_columns(record: RecordType) -> list[str]:
    """The names of Penstock's own columns in a record's table, in their order."""
    return [column.name for column in _bookkeeping(record)]


def sql_type(record: RecordType, column: Column) -> sa.types.TypeEngine[Any]:
    """A column's type; texts by which rows are found and locked sort by their bytes."""
    if column.kind is Kind.TEXT and column.name in (*record.key, _parent_field(record)):
        return sa.Text(collation="C")
    return _TYPES[column.kind]


def _parent_field(record: RecordType) -> str | None:
    parent = record.declaration.parent
    return parent.field if parent else None


def _record_table(metadata: sa.MetaData, registry: Registry, record: RecordType) -> None:
    declaration = record.declaration
    time = declaration.append_only
    options: dict[str, Any] = {"postgresql_partition_by": f'RANGE ("{time}")'} if time else {}
    sa.Table(
        declaration.table_name,
        metadata,
        *(
            sa.Column(column.name, sql_type(record, column), nullable=column.name not in record.key)
            for column in record.columns
        ),
        *_bookkeeping(record),
        sa.PrimaryKeyConstraint(*record.key, name=_name(declaration.table_name, "pkey")),
        *_foreign_keys(registry, record),
        *_indexes(record),
        schema=declaration.schema,
        **options,
    )


def _bookkeeping(record: RecordType) -> Iterator[sa.Column[Any]]:
    yield sa.Column("_version", sa.BigInteger())
    yield sa.Column("_event", sa.Uuid())
    if record.declaration.parent:
        yield sa.Column("_oldest", sa.BigInteger())
    if not record.declaration.append_only:
        yield sa.Column("_deleted_version", sa.BigInteger())
        yield sa.Column("_deleted_event", sa.Uuid())
    yield sa.Column("_stamps", postgresql.JSONB())
    yield sa.Column("_extra", postgresql.JSONB())
    yield sa.Column("_stored_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=_NOW)


def _foreign_keys(registry: Registry, record: RecordType) -> Iterator[sa.ForeignKeyConstraint]:
    parent = record.declaration.parent
    if parent:
        target = registry[parent.type]
        yield sa.ForeignKeyConstraint(
            [parent.field],
            [f"{target.declaration.table}.{target.key[0]}"],
            name=_name(record.declaration.table_name, parent.field, "fkey"),
        )


def _indexes(record: RecordType) -> Iterator[sa.Index]:
    table, parent = record.declaration.table_name, _parent_field(record)
    for index in [*([Index(parent)] if parent else []), *record.declaration.indexes]:
        options: dict[str, Any] = {"postgresql_using": index.method} if index.method != "btree" else {}
        if index.where:
            options["postgresql_where"] = sa.text(index.where)
        yield sa.Index(_index_name(table, index), *index.columns, **options)
    # Few rows or none: it finds the fields that a new column takes over.
    yield sa.Index(_name(table, "_extra", "idx"), record.key[0], postgresql_where=sa.text("_extra IS NOT NULL"))


def _index_name(table: str, index: Index) -> str:
    """Method and condition are part of the name: Alembic does not compare them, so a change of them must be another index."""
    method = [index.method] if index.method != "btree" else []
    where = [f"{zlib.crc32(index.where.encode()):08x}"] if index.where else []
    return _name(table, *index.columns, *method, *where, "idx")


def _name(*parts: str) -> str:
    """A stable name of at most 63 characters, more than which PostgreSQL would cut, and two names become one."""
    name = "_".join(parts)
    return name if len(name) <= 63 else f"{name[:54]}_{zlib.crc32(name.encode()):08x}"
