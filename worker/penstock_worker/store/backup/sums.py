"""
Rows and a checksum of every table, to tell whether a restored table is the one that was backed up.

The checksum is the sum of a 64-bit hash of each row's text: it does not depend on the rows' order, and PostgreSQL computes it
in one pass. It finds damage and loss, not forgery, which encryption is for. The text of a value depends on settings of the
session, so that every session that sums sets them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from psycopg import sql

from penstock_worker.store.connection import Connection

__all__ = ["TableSum", "list_tables", "prepare_session", "sum_tables"]

#: How values become text, the same on every server; and no limits of time, for a table takes as long as it takes.
_SESSION = {
    "extra_float_digits": "1",
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "iso_8601",
    "bytea_output": "hex",
    "xmlbinary": "base64",
    "search_path": "pg_catalog",
    "row_security": "off",
    "statement_timeout": "0",
    "lock_timeout": "60s",
    "idle_in_transaction_session_timeout": "0",
    "transaction_timeout": "0",
}

#: What pg_dump takes the rows of: tables, partitions each for itself, but no extension's.
_TABLES = """
    SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e')
    ORDER BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class TableSum:
    """`checksum` is a number as text: it may have more digits than JSON's readers keep."""

    rows: int
    checksum: str


def prepare_session(connection: Connection) -> None:
    """Make values look the same as in every other session that sums, and take away limits of time."""
    # Older servers do not know all of them.
    for name, value in _SESSION.items():
        connection.execute("SELECT set_config(name, %s, false) FROM pg_settings WHERE lower(name) = %s", [value, name])


def list_tables(connection: Connection) -> list[tuple[str, str]]:
    """Schema and name of every table with rows of its own."""
    return [(str(schema), str(name)) for schema, name in connection.execute(_TABLES.encode()).fetchall()]


def sum_tables(connection: Connection, on_table: Callable[[int, int], None]) -> dict[str, TableSum]:
    """
    Every table's rows and checksum, by `schema.table`, as the connection's transaction sees them.

    Args:
        connection: See `prepare_session`.
        on_table: Told after each table how many are done, and how many there are.
    """
    sums: dict[str, TableSum] = {}
    tables = list_tables(connection)
    for done, (schema, name) in enumerate(tables, 1):
        # A column that is called like the row would be taken for it.
        query = sql.SQL(
            'SELECT count(*), coalesce(sum(hashtextextended(_the_row_::text COLLATE "C", 0)::numeric), 0)::text'
            " FROM ONLY {} _the_row_"
        )
        row = connection.execute(query.format(sql.Identifier(schema, name))).fetchone()
        assert row is not None  # an aggregate gives a row
        sums[f"{schema}.{name}"] = TableSum(int(str(row[0])), str(row[1]))
        on_table(done, len(tables))
    return sums
