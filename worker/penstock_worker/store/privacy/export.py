"""
All that is stored about a person, as one JSON document that is written while it is read: a row at a time is in memory.

    {"person": .., "exported_at": .., "exported_by": .., "reason": ..,
     "records": {type: {"table": .., "category": .., "content": .., "rows": [..]}, ..},
     "dead_letters": [{"type": .., "state": .., "reason": .., "event": ..}, ..],
     "counts": {type: rows, .., "dead_letters": ..}}

Rows are as PostgreSQL says them in JSON, without Penstock's own columns, and with the fields that no column has yet. Those of
audit logs are in it, and those of children. Everything is of one moment.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime

from psycopg import sql

from penstock_schemas.record import RecordType
from penstock_schemas.registry import Registry
from penstock_worker.store.connection import Connection
from penstock_worker.store.privacy.fences import forms_of
from penstock_worker.store.privacy.kept import table_of
from penstock_worker.store.privacy.letters import PersonsLetter, persons_letters
from penstock_worker.store.privacy.log import Request
from penstock_worker.store.privacy.person import about, check_tables, personal_types
from penstock_worker.store.tables import bookkeeping_columns

__all__ = ["export_person"]

#: Rows that the server sends at once.
FETCH_ROWS = 1_000

Write = Callable[[str], object]


def export_person(connection: Connection, registry: Registry, request: Request, write: Write) -> dict[str, int]:
    """
    Write the document.

    Args:
        connection: In autocommit.
        registry: Of the record types.
        request: Whom, who asks, and why.
        write: Takes the text, a piece at a time.

    Returns:
        Rows by type, and dead letters.

    Raises:
        ConfigurationError: The types of some tables are not known; nothing was written.
    """
    counts: dict[str, int] = {}
    check_tables(connection, registry)
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        # As long as it takes: whoever reads may be slow.
        connection.execute("SET LOCAL statement_timeout = 0")
        write(_head(request, _now(connection)))
        write(',\n"records": {')
        for place, record in enumerate(personal_types(registry)):
            write("," if place else "")
            write(_title(record))
            counts[record.name] = _write_list(_rows(connection, registry, record, request.person), write)
            write("}")
        write('\n},\n"dead_letters": [')
        letters = map(_letter, persons_letters(connection, forms_of(request.person), registry))
        counts["dead_letters"] = _write_list(letters, write)
        write(f',\n"counts": {json.dumps(counts)}}}\n')
    return counts


def _head(request: Request, now: str) -> str:
    head = {"person": request.person, "exported_at": now, "exported_by": request.who, "reason": request.why}
    return json.dumps(head)[:-1]


def _title(record: RecordType) -> str:
    declaration = record.declaration
    title = {"table": declaration.table, "category": declaration.category, "content": declaration.content}
    return f'\n{json.dumps(record.name)}: {json.dumps(title)[:-1]}, "rows": ['


def _write_list(texts: Iterator[str], write: Write) -> int:
    """Write the elements of a list that has been opened, and close it; how many."""
    count = 0
    for count, text in enumerate(texts, 1):
        write(f"{',' if count > 1 else ''}\n{text}")
    write("]")
    return count


def _rows(connection: Connection, registry: Registry, record: RecordType, person: str) -> Iterator[str]:
    # A tombstone and a placeholder say nothing.
    query = sql.SQL(
        "SELECT ((to_jsonb(r) - {own}::text[]) || coalesce(r._extra, '{{}}'))::text FROM {table} AS r"
        " WHERE {about} AND r._version IS NOT NULL ORDER BY {key}"
    ).format(
        own=bookkeeping_columns(record),
        table=table_of(record),
        about=about(registry, record, forms_of(person)),
        key=sql.SQL(", ").join(sql.Identifier("r", name) for name in record.key),
    )
    with connection.cursor("penstock_export") as cursor:
        cursor.itersize = FETCH_ROWS
        cursor.execute(query)
        yield from (str(text) for (text,) in cursor)


def _letter(found: PersonsLetter) -> str:
    letter = found.letter
    told = {"type": letter.type, "state": letter.state, "reason": letter.reason, "event": None}
    try:
        event = found.payload.decode()
        json.loads(event, parse_constant=_refuse)
    except (ValueError, RecursionError):
        event = json.dumps(found.payload.decode(errors="replace"))
    return json.dumps(told).removesuffix("null}") + event + "}"


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _now(connection: Connection) -> str:
    row = connection.execute("SELECT now()").fetchone()
    assert row is not None  # a SELECT without FROM has a row
    now = row[0]
    assert isinstance(now, datetime), "of timestamptz"
    return now.isoformat()
