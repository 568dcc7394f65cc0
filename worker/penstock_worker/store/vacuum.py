"""VACUUM of single tables and partitions: what it is done to, and how it went."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from penstock_worker.store.connection import Connection
from penstock_worker.store.named_tables import PARTS_OF, NamedTable

__all__ = ["Part", "count_dead_rows", "list_parts", "unhurried", "vacuum_part"]

#: What autovacuum allows itself by default: it leaves the disk to ingestion, where both want it.
_COST_DELAY = "2ms"
#: How long the sampling of a partitioned table waits for a partition; SKIP_LOCKED does not hold there.
_LOCK_TIMEOUT = "2s"
#: The version from which ANALYZE of a partitioned table can leave its partitions alone.
_HAS_ANALYZE_ONLY = 180_000

_PARTS = f"""
    SELECT asked.name AS table, n.nspname AS schema, c.relname AS name, c.relkind = 'p' AS is_partitioned
    FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS asked (name, quoted, place)
    CROSS JOIN LATERAL {PARTS_OF} AS t
    JOIN pg_class AS c ON c.oid = t.relid
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    LEFT JOIN LATERAL (SELECT greatest(last_vacuum, last_autovacuum) AS at FROM pg_stat_all_tables WHERE relid = c.oid) AS last
        ON true
    ORDER BY c.relkind = 'p', last.at NULLS FIRST, asked.place, c.relname
"""
_DEAD = "SELECT n_dead_tup FROM pg_stat_all_tables WHERE relid = to_regclass(%s)"


@dataclass(frozen=True, slots=True)
class Part:
    """A table that holds rows, or a partitioned one, which has its statistics only; `table` is what people call it."""

    table: str
    schema: str
    name: str
    is_partitioned: bool

    @property
    def full_name(self) -> str:
        """`schema.table` of the partition."""
        return f"{self.schema}.{self.name}"

    @property
    def identifier(self) -> sql.Identifier:
        """As it stands in a statement."""
        return sql.Identifier(self.schema, self.name)


def list_parts(connection: Connection, tables: Iterable[NamedTable]) -> list[Part]:
    """
    What there is of these tables: what waited longest comes first, and a partitioned table after its partitions.

    So a run that ends before all of them are done leaves those to the next that need it least.
    """
    tables = list(tables)
    parameters = [[table.full_name for table in tables], [table.identifier.as_string() for table in tables]]
    with connection.cursor(row_factory=class_row(Part)) as cursor:
        return cursor.execute(_PARTS, parameters).fetchall()


def count_dead_rows(connection: Connection, part: Part) -> int:
    """Dead rows that the server knows of; it hears of them up to a second after they died."""
    row = connection.execute(_DEAD, [part.identifier.as_string()]).fetchone()
    return int(str(row[0])) if row and row[0] is not None else 0


@contextmanager
def unhurried(connection: Connection) -> Iterator[None]:
    """No time limit for a statement, and no more of the disk than autovacuum would take."""
    wanted = {"statement_timeout": "0", "lock_timeout": _LOCK_TIMEOUT, "vacuum_cost_delay": _COST_DELAY}
    for name, value in wanted.items():
        connection.execute(sql.SQL("SET {} = {}").format(sql.Identifier(name), value))
    try:
        yield
    finally:
        if not connection.closed:
            for name in wanted:
                connection.execute(sql.SQL("RESET {}").format(sql.Identifier(name)))


def vacuum_part(connection: Connection, part: Part) -> str | None:
    """
    VACUUM (ANALYZE) a part, never FULL, which would lock everybody out; of a partitioned table, ANALYZE it.

    Args:
        connection: In autocommit, and `unhurried`.
        part: What to vacuum.

    Returns:
        Why it was not done, None where it was: nobody is waited for, and it may belong to somebody else.
    """
    warnings: list[str] = []

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "WARNING":
            warnings.append(diagnostic.message_primary or "a warning")

    connection.add_notice_handler(note)
    try:
        connection.execute(_statement(connection, part))
    except psycopg.errors.LockNotAvailable as exc:
        warnings.append(exc.diag.message_primary or "a lock is not available")
    except psycopg.errors.UndefinedTable:
        return None  # a partition that retention has dropped since it was listed
    finally:
        connection.remove_notice_handler(note)
    return "; ".join(warnings) or None


def _statement(connection: Connection, part: Part) -> sql.Composed:
    if not part.is_partitioned:
        return sql.SQL("VACUUM (ANALYZE, SKIP_LOCKED) {}").format(part.identifier)
    # Autovacuum never does this, so that the planner would know nothing of the table as a whole.
    only = sql.SQL("ONLY " if connection.info.server_version >= _HAS_ANALYZE_ONLY else "")
    return sql.SQL("ANALYZE (SKIP_LOCKED) {}{}").format(only, part.identifier)
