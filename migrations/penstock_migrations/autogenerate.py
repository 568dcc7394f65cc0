"""
What `penstock migrate create` compares, leaves out and adds.

It compares one package's schemas and never partitions. It leaves out what old workers would miss: a column or table that is no
longer declared is dropped by a later `create --contract`, one release after the workers that wrote it. And it adds what Alembic
does not write: schemas, first partitions, and the values of a new column that came before it, from `_extra`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from alembic.autogenerate import renderers
from alembic.operations import ops

from penstock_migrations.packages import Package
from penstock_migrations.refusals import check_types, check_unchangeable
from penstock_schemas.registry import Registry

__all__ = ["Comparison"]

_PARTITIONS = (
    "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relispartition"
)


class CallOp(ops.MigrateOperation):
    """A call of a function of `penstock_migrations.operations`."""

    def __init__(self, function: str, *arguments: str) -> None:
        self.function = function
        self.arguments = arguments


@renderers.dispatch_for(CallOp)
def _render(context: Any, call: CallOp) -> str:
    context.imports.add("from penstock_migrations import operations as penstock")
    return f"penstock.{call.function}({', '.join(map(repr, call.arguments))})"


class Comparison:
    """
    The comparison of one package's declarations with the database; its methods are Alembic's hooks.

    `kept` says afterwards what is in the database and no longer declared, `is_empty` whether there is nothing to write.
    """

    def __init__(
        self, package: Package, registry: Registry, connection: sa.Connection, *, is_contracting: bool = False
    ) -> None:
        self.package = package
        self.is_empty = True
        self.kept: list[str] = []
        self._registry = registry
        self._connection = connection
        self._is_contracting = is_contracting
        self._partitions = set(connection.scalars(sa.text(_PARTITIONS)))

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
        """Refuse, leave out, add; and drop the script if nothing has changed."""
        del context, revision
        script = directives[0]
        up = script.upgrade_ops
        assert up is not None, "there is one history per package, and one script per history"
        check_unchangeable(self.package, self._registry, self._connection)
        check_types(_flat(up.ops))
        if not self._is_contracting:
            up.ops = list(self._without_drops(up.ops))
        self.is_empty = up.is_empty()
        if self.is_empty:
            directives.clear()
            return
        down = up.reverse_into(ops.DowngradeOps([]))
        schemas = self._schemas_to_make(up.ops)
        up.ops[:0] = [CallOp("create_schema", schema) for schema in schemas]
        up.ops += self._calls_after(up.ops)
        down.ops += [CallOp("drop_schema", schema) for schema in reversed(schemas)]
        script.downgrade_ops = down

    def _without_drops(self, operations: Sequence[Any]) -> Iterator[Any]:
        gone = {(op.schema, op.table_name) for op in operations if isinstance(op, ops.DropTableOp)}
        self.kept += [f"{schema}.{table}" for schema, table in sorted(gone)]
        for op in operations:
            if isinstance(op, ops.ModifyTableOps):
                op.ops = [] if (op.schema, op.table_name) in gone else list(self._without_dropped_columns(op.ops))
                if op.ops:
                    yield op
            elif not isinstance(op, ops.DropTableOp):
                yield op

    def _without_dropped_columns(self, operations: Sequence[Any]) -> Iterator[Any]:
        for op in operations:
            if isinstance(op, ops.DropColumnOp):
                self.kept.append(f"{op.schema}.{op.table_name}.{op.column_name}")
            else:
                yield op

    def _schemas_to_make(self, operations: Sequence[Any]) -> list[str]:
        """Schemas without a table so far; one that exists may be missing where the migration will run."""
        made = {op.schema for op in operations if isinstance(op, ops.CreateTableOp) and op.schema}
        inspector = sa.inspect(self._connection)
        known = {record.declaration.table_name for record in self.package.records}
        return sorted(schema for schema in made if not known.intersection(inspector.get_table_names(schema=schema)))

    def _calls_after(self, operations: Sequence[Any]) -> list[CallOp]:
        partitioned = {record.declaration.table for record in self.package.records if record.declaration.append_only}
        calls = []
        for op in _flat(operations):
            table = f"{getattr(op, 'schema', None)}.{getattr(op, 'table_name', None)}"
            if isinstance(op, ops.CreateTableOp) and table in partitioned:
                calls.append(CallOp("create_partitions", table))
            elif isinstance(op, ops.AddColumnOp) and not op.column.name.startswith("_"):
                calls.append(CallOp("promote_extra", table, op.column.name))
        return calls


def _flat(operations: Iterable[Any]) -> Iterator[Any]:
    for op in operations:
        if isinstance(op, ops.ModifyTableOps):
            yield from _flat(op.ops)
        else:
            yield op
