"""Dead letters as they lie in their table: counted, read page by page, locked, changed, removed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast
from uuid import UUID

from psycopg import sql
from psycopg.rows import class_row, dict_row

from penstock_worker.store.connection import Connection
from penstock_worker.store.dead_letters import Letter
from penstock_worker.store.letter_filter import LetterFilter

__all__ = [
    "BEFORE_ALL",
    "change_letters",
    "count_meant",
    "existing_letters",
    "find_letter",
    "find_ripe",
    "lock_letters",
    "read_page",
    "remove_letters",
    "stream_letters",
]

#: Sorts below the id of every letter.
BEFORE_ALL = UUID(int=0)

#: In the order of the fields of `Letter`.
_COLUMNS = sql.SQL(
    "id, state, reason, detail, payload, sqlstate, constraint_name AS constraint, column_name AS column, type, op, version,"
    " event_id, producer, epoch, seq, content_type, headers, events"
)
#: As the table has them, for people and other programs.
_ALL = sql.SQL(
    "id, state, reason, detail, sqlstate, constraint_name, column_name, fingerprint, type, op, version, event_id, producer,"
    " epoch, seq, events, content_type, headers, at, payload"
)


def count_meant(connection: Connection, meant: LetterFilter) -> int:
    """How many letters there are."""
    row = connection.execute(sql.SQL("SELECT count(*) FROM penstock.dead_letters WHERE {}").format(meant.condition)).fetchone()
    return int(str(row[0])) if row else 0


def read_page(
    connection: Connection, meant: LetterFilter | sql.Composable, after: UUID, letters: int, size: int
) -> list[Letter]:
    """
    The next letters in the order of their ids.

    Args:
        connection: Any; nothing is locked.
        meant: Which letters; a filter or a condition.
        after: The id of the last letter before them.
        letters: How many at most.
        size: Bytes of payload at most; one letter comes whatever its size.
    """
    query = sql.SQL(
        "WITH page AS (SELECT id, octet_length(payload) AS size FROM penstock.dead_letters"
        " WHERE ({condition}) AND id > {after} ORDER BY id LIMIT {letters}),"
        " sized AS (SELECT id, sum(size) OVER (ORDER BY id) - size AS before FROM page)"
        " SELECT {columns} FROM penstock.dead_letters"
        " WHERE id = ANY (SELECT id FROM sized WHERE before < {size}) ORDER BY id"
    ).format(
        condition=meant.condition if isinstance(meant, LetterFilter) else meant,
        after=after,
        letters=letters,
        size=size,
        columns=_COLUMNS,
    )
    with connection.cursor(row_factory=class_row(Letter)) as cursor:
        return cursor.execute(query).fetchall()


def find_ripe(
    connection: Connection, fingerprint: str, after: UUID, ahead_us: int, letters: int, looked_at: int
) -> tuple[list[UUID], UUID]:
    """
    Held letters whose version is not further ahead of the database's clock than it may be.

    Args:
        connection: Any; nothing is locked.
        fingerprint: Theirs.
        after: The id of the last letter before them.
        ahead_us: Microseconds that a version may be ahead.
        letters: How many at most.
        looked_at: At how many letters it looks at most, in the order of their ids.

    Returns:
        Their ids, in order, and the last id that was looked at; `BEFORE_ALL` if none is left behind it.
    """
    looked = connection.execute(
        "WITH looked AS (SELECT id, version FROM penstock.dead_letters"
        " WHERE state = 'held' AND fingerprint = %(fingerprint)s AND id > %(after)s ORDER BY id LIMIT %(looked_at)s)"
        " SELECT (SELECT count(*) FROM looked), (SELECT id FROM looked ORDER BY id DESC LIMIT 1),"
        " array(SELECT id FROM looked WHERE version <= (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + %(ahead)s"
        " ORDER BY id LIMIT %(letters)s)",
        {"fingerprint": fingerprint, "after": after, "ahead": ahead_us, "letters": letters, "looked_at": looked_at},
    ).fetchone()
    count, last, ids = cast("tuple[int, UUID | None, list[UUID]]", looked)
    if len(ids) == letters:
        return ids, ids[-1]
    return ids, last if last is not None and count == looked_at else BEFORE_ALL


def find_letter(connection: Connection, letter_id: UUID) -> dict[str, Any] | None:
    """All columns of a letter; None if there is none."""
    query = sql.SQL("SELECT {} FROM penstock.dead_letters WHERE id = {}").format(_ALL, letter_id)
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query).fetchone()


def stream_letters(connection: Connection, meant: LetterFilter) -> Iterator[dict[str, Any]]:
    """
    All columns of every letter that is meant, in the order of ids, as of one moment.

    One row at a time is in memory: the server sends no faster than it is read.
    """
    query = sql.SQL("SELECT {} FROM penstock.dead_letters WHERE {} ORDER BY id").format(_ALL, meant.condition)
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        # As long as it takes: whoever reads may be slow.
        cursor.execute("SET LOCAL statement_timeout = 0")
        yield from cursor.stream(query)


def existing_letters(connection: Connection, ids: Iterable[UUID]) -> int:
    """How many of these are still there."""
    row = connection.execute("SELECT count(*) FROM penstock.dead_letters WHERE id = ANY (%s)", [list(ids)]).fetchone()
    return int(str(row[0])) if row else 0


def lock_letters(connection: Connection, ids: Iterable[UUID]) -> set[UUID]:
    """Lock those of these letters that are still there and that nobody else has locked, until the transaction ends."""
    rows = connection.execute(
        "SELECT id FROM penstock.dead_letters WHERE id = ANY (%s) ORDER BY id FOR UPDATE SKIP LOCKED", [list(ids)]
    )
    return {UUID(str(found)) for (found,) in rows}


def remove_letters(connection: Connection, ids: Sequence[UUID]) -> None:
    """Delete letters that the transaction has locked."""
    if ids:
        connection.execute("DELETE FROM penstock.dead_letters WHERE id = ANY (%s)", [list(ids)])


def change_letters(connection: Connection, letters: Iterable[Letter]) -> None:
    """Write the new reasons of letters that the transaction has locked. What they say of their event, and when, stays."""
    rows = [letter.row() for letter in letters]
    if rows:
        connection.cursor().executemany(
            "UPDATE penstock.dead_letters SET state = %(state)s, reason = %(reason)s, detail = %(detail)s, "
            "sqlstate = %(sqlstate)s, constraint_name = %(constraint)s, column_name = %(column)s, "
            "fingerprint = %(fingerprint)s, type = %(type)s, op = %(op)s, version = %(version)s WHERE id = %(id)s",
            rows,
        )
