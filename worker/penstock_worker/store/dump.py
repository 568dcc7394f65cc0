"""
A table as text, streamed by the server's COPY: what is in memory is a piece of some rows.

| format | what                                                                                                      |
|--------|-----------------------------------------------------------------------------------------------------------|
| sql    | a script for psql: schema and table where they are missing, then a COPY block                               |
| csv    | a header, then rows as `COPY .. FROM .. (FORMAT csv, HEADER)` reads them: NULL is nothing, an empty text "" |
| ndjson | an object a line                                                                                            |
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

from psycopg import sql

from penstock_schemas.registry import Registry
from penstock_worker.errors import ConfigurationError
from penstock_worker.store.connection import Connection
from penstock_worker.store.named_tables import PARTS_OF, NamedTable
from penstock_worker.store.queries import visible_rows

__all__ = ["DumpFormat", "Piece", "dump_table", "estimate_rows"]

DumpFormat = Literal["sql", "csv", "ndjson"]

#: Bytes that a piece has at least, the last one left out: a row alone would cost more in its handling than in its reading.
PIECE_BYTES = 64 * 1024
#: It makes the codes of erased people readable for who has it: it leaves the database with a backup only.
_SECRET = ("penstock.fence_key",)
#: A JSON text has neither of these characters, so that this "CSV" is each row's JSON as it is.
_RAW = sql.SQL("(FORMAT csv, DELIMITER E'\\x02', QUOTE E'\\x01')")
_CSV = sql.SQL("(FORMAT csv, HEADER)")

_COLUMNS = """
    SELECT attname, format_type(atttypid, atttypmod), atttypid = 'timestamptz'::regtype, attnotnull
    FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_KEY = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = to_regclass(%s) AND contype = 'p'"
#: -1 is a table that nobody analyzed yet; a partitioned table has its rows in its partitions.
_ESTIMATE = f"""
    SELECT sum(greatest(c.reltuples, 0))::bigint
    FROM (VALUES (%s)) AS asked (quoted) CROSS JOIN LATERAL {PARTS_OF} AS t
    JOIN pg_class AS c ON c.oid = t.relid WHERE c.relkind <> 'p'
"""
#: A table of Penstock in which rows have no version shows none of them.
_GUARD = """\
DO $$ BEGIN
  IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass({table}) AND attname = '_version') THEN
    RAISE EXCEPTION 'a table of Penstock does not show rows without their versions: dump them with --all';
  END IF;
END $$;
"""


class Piece(NamedTuple):
    """Some of the text, and how many rows are in it."""

    text: bytes
    rows: int = 0


class _Column(NamedTuple):
    name: str
    type: str
    is_time: bool
    is_required: bool


def dump_table(
    connection: Connection, registry: Registry, table: NamedTable, form: DumpFormat, *, has_all: bool = False
) -> Generator[Piece, None, None]:
    """
    The rows that readers see, a piece at a time, and all of one moment.

    Args:
        connection: In autocommit; nothing else is done on it until the end.
        registry: The record types, for parents.
        table: What to dump.
        form: See the module.
        has_all: With placeholders, tombstones and fallen children, and with Penstock's own columns.

    Raises:
        ConfigurationError: The table is not there, or is a secret.
    """
    if table.full_name in _SECRET:
        raise ConfigurationError(f"{table.full_name} is a secret and is not dumped; `penstock backup` keeps it")
    columns = _columns(connection, table, has_all=has_all)
    rows = _rows(registry, table, columns, form, has_all=has_all)
    if form == "sql":
        yield from _script(connection, table, columns, rows, is_guarded=table.record is not None and not has_all)
    else:
        statement = sql.SQL("COPY ({}) TO STDOUT {}").format(rows, _CSV if form == "csv" else _RAW)
        yield from _copied(connection, statement, lines_before=form == "csv")


def estimate_rows(connection: Connection, table: NamedTable) -> int | None:
    """How many rows the table has, tombstones included, as of its last ANALYZE; None where there was none."""
    row = connection.execute(_ESTIMATE, [table.identifier.as_string()]).fetchone()
    return int(str(row[0])) if row and row[0] else None


def _columns(connection: Connection, table: NamedTable, *, has_all: bool) -> list[_Column]:
    found = [_Column(*row) for row in connection.execute(_COLUMNS, [table.identifier.as_string()]).fetchall()]  # type: ignore[arg-type]  # text, text, boolean, boolean
    if not found:
        raise ConfigurationError(f"the database has no table {table.full_name}: run `penstock migrate up`")
    return [column for column in found if has_all or not column.name.startswith("_")]


def _rows(
    registry: Registry, table: NamedTable, columns: Sequence[_Column], form: DumpFormat, *, has_all: bool
) -> sql.Composed:
    if table.record is None or has_all:
        source = sql.SQL("FROM {} r").format(table.identifier)
    else:
        source = visible_rows(table.record, registry)
    values = sql.SQL(", ").join(_value(column, form) for column in columns)
    rows = sql.SQL("SELECT {} {}").format(values, source)
    return sql.SQL("SELECT row_to_json(line) FROM ({}) AS line").format(rows) if form == "ndjson" else rows


def _value(column: _Column, form: DumpFormat) -> sql.Composed:
    name = sql.Identifier(column.name)
    if column.is_time and form == "csv":  # PostgreSQL's own text has a space where ISO 8601 has a T
        return sql.SQL("to_json(r.{name}) #>> '{{}}' AS {name}").format(name=name)
    return sql.SQL("r.{}").format(name)


def _script(
    connection: Connection, table: NamedTable, columns: Sequence[_Column], rows: sql.Composed, *, is_guarded: bool
) -> Iterator[Piece]:
    name = table.identifier.as_string()
    names = ", ".join(sql.Identifier(column.name).as_string() for column in columns)
    head = f"""\
-- {table.full_name}; read it with psql
\\set ON_ERROR_STOP on
BEGIN;
SET LOCAL client_encoding = 'UTF8';
SET LOCAL TimeZone = 'UTC';
SET LOCAL client_min_messages = warning;
CREATE SCHEMA IF NOT EXISTS {sql.Identifier(table.schema).as_string()};
CREATE TABLE IF NOT EXISTS {name} (
  {_definitions(connection, table, columns)}
);
{_GUARD.format(table=sql.Literal(name).as_string()) if is_guarded else ""}\
COPY {name} ({names}) FROM stdin;
"""
    yield Piece(head.encode())
    yield from _copied(connection, sql.SQL("COPY ({}) TO STDOUT").format(rows))
    yield Piece(b"\\.\nCOMMIT;\n")


def _definitions(connection: Connection, table: NamedTable, columns: Sequence[_Column]) -> str:
    parts = [
        f"{sql.Identifier(column.name).as_string()} {column.type}{' NOT NULL' if column.is_required else ''}"
        for column in columns
    ]
    key = connection.execute(_KEY, [table.identifier.as_string()]).fetchone()
    return ",\n  ".join([*parts, *([str(key[0])] if key else [])])


def _copied(connection: Connection, statement: sql.Composed, *, lines_before: int = 0) -> Iterator[Piece]:
    lines: list[bytes] = []
    size, headers = 0, lines_before
    with _no_time_limit(connection), connection.cursor().copy(statement) as copy:
        for line in copy:  # the server sends them one by one
            lines.append(bytes(line))
            size += len(line)
            if size >= PIECE_BYTES:
                yield Piece(b"".join(lines), len(lines) - headers)
                lines, size, headers = [], 0, 0
    yield Piece(b"".join(lines), len(lines) - headers)


@contextmanager
def _no_time_limit(connection: Connection) -> Iterator[None]:
    """A statement of a large table takes as long as its reader does."""
    with connection.transaction():
        connection.execute("SET LOCAL statement_timeout = 0")
        yield
