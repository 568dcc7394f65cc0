"""
What `penstock migrate create` compares, refuses and adds.

It compares one package's schemas and never partitions. It refuses what cannot be changed in place. And it adds what Alembic
does not write: CREATE SCHEMA, and the values of a new column that came before it, from `_extra`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from alembic.operations import ops

from penstock_migrations.packages import Package
from penstock_schemas.column import Kind, Rule
from penstock_schemas.record import RecordType
from penstock_worker.errors import ConfigurationError
from penstock_worker.store.upsert import UpsertPlan

__all__ = ["Comparison"]

_PARTITIONS = (
    "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relispartition"
)


class Comparison:
    """The comparison of one package's declarations with the database; its methods are Alembic's hooks."""

    def __init__(self, package: Package, connection: sa.Connection) -> None:
        self.package = package
        self._connection = connection
        self._partitions = set(connection.scalars(sa.text(_PARTITIONS)))
        self.is_empty = True

    def is_name_ours(self, name: str | None, kind: str, parents: Any) -> bool:
        """Whether a name found in the database is looked at."""
        if kind == "schema":
            return name in self.package.schemas
        if kind == "table":
            is_version_table = bool(name) and str(name).startswith("alembic_version")
            return not is_version_table and f"{parents.get('schema_name')}.{name}" not in self._partitions
        return True

    def is_object_ours(self, item: Any, name: str | None, kind: str, is_reflected: bool, compared: Any) -> bool:
        """Whether a declared table is this package's."""
        del name, compared
        return kind != "table" or is_reflected or item.schema in self.package.schemas

    def complete(self, context: Any, revision: Any, directives: list[ops.MigrationScript]) -> None:
        """Refuse, add, and drop the script if nothing has changed."""
        del context, revision
        script = directives[0]
        up, down = script.upgrade_ops, script.downgrade_ops
        if up is None or down is None:
            return
        self._check_unchangeable(up)
        self.is_empty = up.is_empty()
        if self.is_empty:
            directives.clear()
            return
        for schema in reversed(self._schemas_to_make(up)):
            up.ops.insert(0, ops.ExecuteSQLOp(f'CREATE SCHEMA IF NOT EXISTS "{schema}"'))
            down.ops.append(ops.ExecuteSQLOp(f'DROP SCHEMA "{schema}"'))
        up.ops.extend(ops.ExecuteSQLOp(statement) for statement in self._promotions(up))

    def _schemas_to_make(self, up: ops.UpgradeOps) -> list[str]:
        existing = set(sa.inspect(self._connection).get_schema_names())
        wanted = {op.schema for op in up.ops if isinstance(op, ops.CreateTableOp) and op.schema}
        return sorted(wanted - existing)

    def _promotions(self, up: ops.UpgradeOps) -> list[str]:
        """For each new column: take over what newer producers have sent already."""
        records = {record.declaration.table: record for record in self.package.records}
        return [
            _promotion(records[f"{op.schema}.{op.table_name}"], op.column.name)
            for op in _flat(up.ops)
            if isinstance(op, ops.AddColumnOp) and not op.column.name.startswith("_")
        ]

    def _check_unchangeable(self, up: ops.UpgradeOps) -> None:
        inspector = sa.inspect(self._connection)
        for record in self.package.records:
            declaration = record.declaration
            if inspector.has_table(declaration.table_name, schema=declaration.schema):
                _check_key(inspector, record)
                _check_parent(inspector, record)
                self._check_partitioning(record)
        for op in _flat(up.ops):
            if isinstance(op, ops.AlterColumnOp) and op.modify_type is not None:
                raise ConfigurationError(
                    f"{op.schema}.{op.table_name}.{op.column_name}: the type of a column cannot change, old and new workers "
                    "run side by side: declare a new column and fill it"
                )

    def _check_partitioning(self, record: RecordType) -> None:
        query = "SELECT pg_get_partkeydef(to_regclass(:table))"
        found = self._connection.scalar(sa.text(query), {"table": UpsertPlan(record).table})
        time = record.declaration.append_only
        if (found is None) != (time is None) or (found and time and time not in found):
            raise _refused(record, "append_only", "an append-only table is partitioned from its birth")


def _check_key(inspector: sa.Inspector, record: RecordType) -> None:
    declaration = record.declaration
    found = inspector.get_pk_constraint(declaration.table_name, schema=declaration.schema)["constrained_columns"]
    if tuple(found) != record.key:
        raise _refused(record, "key", f"its rows are found by {', '.join(found)}")


def _check_parent(inspector: sa.Inspector, record: RecordType) -> None:
    declaration = record.declaration
    keys = inspector.get_foreign_keys(declaration.table_name, schema=declaration.schema)
    found = {(tuple(key["constrained_columns"]), key["referred_schema"]) for key in keys}
    wanted = {((declaration.parent.field,), declaration.parent.type.split(".")[0])} if declaration.parent else set()
    if {columns for columns, _ in found} != {columns for columns, _ in wanted}:
        raise _refused(record, "parent", "its children stand in the table already")


def _refused(record: RecordType, what: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"{record.name}: its {what} cannot change, {why}: declare a new type and move the rows")


def _flat(operations: Iterable[Any]) -> Iterable[Any]:
    for op in operations:
        if isinstance(op, ops.ModifyTableOps):
            yield from _flat(op.ops)
        else:
            yield op


def _promotion(record: RecordType, name: str) -> str:
    """Move a field from `_extra` into its new column, with its stamp; what does not fit the column's type stays where it is."""
    column, plan = record.by_name[name], UpsertPlan(record)
    kind = column.kind.value
    value = f"_extra -> '{name}'" if column.kind is Kind.JSONB else f"(_extra ->> '{name}')::{kind}"
    fits = "true" if column.kind is Kind.JSONB else f"penstock.is_castable(_extra ->> '{name}', '{kind}')"
    stamp = f"_stamps ->> '+{name}'"
    if column.rule in (Rule.MIN, Rule.MAX):
        stamps = f"_stamps - '+{name}'"
    else:
        kept = f"'0' || ({stamp})" if column.rule is Rule.STATE else f"({stamp})"
        stamps = f"(_stamps - '+{name}') || jsonb_build_object('{name}', {kept})"
    return (
        f"UPDATE {plan.table} SET \"{name}\" = {value}, _extra = nullif(_extra - '{name}', '{{}}'), _stamps = {stamps} "
        f"WHERE _extra ? '{name}' AND {fits}"
    )
