"""Alembic's side: runs a history over the connection that `run.py` hands it, each migration in a transaction of its own."""

from __future__ import annotations

from typing import Any

from alembic import context

from penstock_migrations.autogenerate import Comparison
from penstock_worker.store.own_schema import OWN_SCHEMA

attributes: dict[str, Any] = context.config.attributes
comparison: Comparison = attributes["comparison"]


def note(ctx: Any, step: Any, heads: Any, run_args: Any) -> None:
    """Tell `run.py` what was done."""
    del ctx, heads, run_args
    attributes["done"].append(step.up_revision_id)


context.configure(
    connection=attributes["connection"],
    target_metadata=attributes["metadata"],
    version_table=comparison.package.version_table,
    version_table_schema=OWN_SCHEMA,
    transaction_per_migration=True,
    include_schemas=True,
    include_name=comparison.is_name_ours,
    include_object=comparison.is_object_ours,
    compare_type=True,
    process_revision_directives=comparison.complete,
    on_version_apply=note,
)
with context.begin_transaction():
    context.run_migrations()
