"""Which rows are about a person: those that name the person, and their children."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from psycopg import sql

from penstock_schemas.column import Kind
from penstock_schemas.record import RecordType
from penstock_schemas.registry import Registry
from penstock_worker.store.privacy.fences import subject_is
from penstock_worker.store.privacy.kept import table_of

__all__ = ["about", "can_name", "personal_types"]


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


def can_name(registry: Registry, record: RecordType) -> bool:
    """Whether a row of the type, or what is above it, can name a person."""
    parent = record.declaration.parent
    return record.declaration.subject is not None or (parent is not None and can_name(registry, registry[parent.type]))


def personal_types(registry: Registry) -> Iterator[RecordType]:
    """The types whose rows can be about a person, audit logs included; parents before children."""
    return (record for record in registry.values() if can_name(registry, record))
