"""Which rows are about a person: those that name the person, and their children."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from psycopg import sql

from penstock_schemas.column import Kind
from penstock_schemas.record import RecordType
from penstock_schemas.registry import Registry
from penstock_worker.errors import ConfigurationError
from penstock_worker.store.connection import Connection
from penstock_worker.store.privacy.fences import subject_is
from penstock_worker.store.privacy.kept import table_of

__all__ = ["about", "can_name", "check_tables", "personal_types"]

#: Tables of record types, partitions left out: they have our bookkeeping.
_RECORD_TABLES = """
    SELECT nspname || '.' || relname FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace
    WHERE relkind IN ('r', 'p') AND NOT relispartition AND relpersistence <> 't'
    AND (SELECT count(*) FROM pg_attribute AS a WHERE attrelid = pg_class.oid AND NOT attisdropped
         AND attname IN ('_version', '_event', '_stamps', '_stored_at')) = 4
    ORDER BY 1
"""


def about(registry: Registry, record: RecordType, forms: Mapping[Kind, str], alias: str = "r") -> sql.Composable:
    """The SQL condition that a row names a person, or is below one that does."""
    parts: list[sql.Composable] = [subject_is(record, forms, alias)] if record.declaration.subject else []
    parent = record.declaration.parent
    if parent is not None and can_name(registry, registry[parent.type]):
        above, target = f"{alias}_above", registry[parent.type]
        parts.append(
            sql.SQL("EXISTS (SELECT FROM {} AS {} WHERE {} = {} AND {})").format(
                table_of(target),
                sql.Identifier(above),
                sql.Identifier(above, target.key[0]),
                sql.Identifier(alias, parent.field),
                about(registry, target, forms, above),
            )
        )
    return sql.SQL("({})").format(sql.SQL(" OR ").join(parts)) if parts else sql.SQL("false")


def check_tables(connection: Connection, registry: Registry) -> None:
    """
    See that the types of all tables are known: what is in others would be passed over in silence.

    Raises:
        ConfigurationError: One is not.
    """
    known = {record.declaration.table for record in registry.values()}
    unknown = [str(name) for (name,) in connection.execute(_RECORD_TABLES) if name not in known]
    if unknown:
        raise ConfigurationError(
            f"the record types of {', '.join(unknown)} are not installed here, so that nobody could be found in them: set"
            " PENSTOCK_RECORDS as the workers have it, or drop what is no longer used"
        )


def can_name(registry: Registry, record: RecordType) -> bool:
    """Whether a row of the type, or what is above it, can name a person."""
    parent = record.declaration.parent
    return record.declaration.subject is not None or (parent is not None and can_name(registry, registry[parent.type]))


def personal_types(registry: Registry) -> Iterator[RecordType]:
    """The types whose rows can be about a person, audit logs included; parents before children."""
    return (record for record in registry.values() if can_name(registry, record))
