"""What cannot change while a type has rows, and old and new workers write them side by side: each refused in one line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from alembic.operations import ops

from penstock_migrations.packages import Package
from penstock_schemas.record import RecordType
from penstock_schemas.registry import Registry
from penstock_worker.errors import ConfigurationError
from penstock_worker.store.upsert import UpsertPlan, quote

__all__ = ["check_types", "check_unchangeable"]


def check_unchangeable(package: Package, registry: Registry, connection: sa.Connection) -> None:
    """
    Compare key, parent and partitioning of each type that has a table with that table.

    Raises:
        ConfigurationError: One of them differs.
    """
    inspector = sa.inspect(connection)
    for record in package.records:
        if inspector.has_table(record.declaration.table_name, schema=record.declaration.schema):
            _check_key(inspector, record)
            _check_partitioning(connection, record)
            _check_parent(inspector, registry, record)


def check_types(operations: Iterable[Any]) -> None:
    """
    Look for a column of another type among the operations that a comparison has found.

    Raises:
        ConfigurationError: There is one.
    """
    for op in operations:
        if isinstance(op, ops.AlterColumnOp) and op.modify_type is not None:
            raise ConfigurationError(
                f"{op.schema}.{op.table_name}.{op.column_name}: a column's type cannot change from "
                f"{_type_name(op.existing_type)} to {_type_name(op.modify_type)}: declare a new column beside it"
            )


def _check_key(inspector: sa.Inspector, record: RecordType) -> None:
    declaration = record.declaration
    found = inspector.get_pk_constraint(declaration.table_name, schema=declaration.schema)["constrained_columns"]
    if tuple(found) != record.key:
        raise _refused(record, "key", ", ".join(found), ", ".join(record.key))


def _check_partitioning(connection: sa.Connection, record: RecordType) -> None:
    query = "SELECT pg_get_partkeydef(to_regclass(:table))"
    found = connection.scalar(sa.text(query), {"table": UpsertPlan(record).table})
    time = record.declaration.append_only
    wanted = None if time is None else f"RANGE ({time})"
    if found is not None:
        found = found.replace('"', "")
    if found != wanted:
        raise _refused(record, "append_only", found, wanted)


def _check_parent(inspector: sa.Inspector, registry: Registry, record: RecordType) -> None:
    declaration, parent = record.declaration, record.declaration.parent
    found = {
        f"{quote(key['constrained_columns'][0])} of {key['referred_schema']}.{key['referred_table']}"
        for key in inspector.get_foreign_keys(declaration.table_name, schema=declaration.schema)
    }
    wanted = {f"{quote(parent.field)} of {registry[parent.type].declaration.table}"} if parent else set()
    if found != wanted:
        raise _refused(record, "parent", ", ".join(sorted(found)), ", ".join(wanted))


def _refused(record: RecordType, what: str, before: str | None, after: str | None) -> ConfigurationError:
    change = f"from {before or 'none'} to {after or 'none'}"
    return ConfigurationError(f"{record.name}: its {what} cannot change {change}: declare a new type and move the rows")


def _type_name(kind: Any) -> str:
    return str(kind).lower()
