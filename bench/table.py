"""A record type's table: its bytes as COPY reads them, its digests, and what every write to it has to keep up."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import psycopg

from bench.figures import DIGEST_DIGITS
from bench.site import Site

__all__ = ["OWN_TABLES", "Table", "split_lines"]

#: What a worker leaves beside the rows.
OWN_TABLES = "penstock.ledger, penstock.producers, penstock.dead_letters, penstock.suspects"
_CHUNK_BYTES = 1024 * 1024
_SAMPLE_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class Table:
    """
    One table of the site.

    Args:
        place: Where it is.
        name: With its schema.
        row_md5: SQL of a text over what was sent of a row; the workload has its twin.
    """

    place: Site
    name: str
    row_md5: str

    def rows(self) -> int:
        """How many there are."""
        return int(self.place.value(f"SELECT count(*) FROM {self.name}"))

    def about(self) -> dict[str, Any]:
        """What a result says of it; the bytes of a row are those of COPY's text, of a thousand rows."""
        text = len(self.export(_SAMPLE_ROWS))
        rows = self.rows()
        return {"rows": rows, "bytes_per_row": round(text / max(min(rows, _SAMPLE_ROWS), 1)), "indexes": self.indexes()}

    def empty(self) -> None:
        """Without rows, and without what the worker noted of them."""
        self.place.connection.execute(f"TRUNCATE {self.name}, {OWN_TABLES}")

    def sent_digest(self, where: str = "true", parameters: list[Any] | None = None) -> int:
        """Over what was sent, see `figures.digest_of`; or over a part of the rows."""
        prefix = f"('x' || left({self.row_md5}, {DIGEST_DIGITS}))::bit({4 * DIGEST_DIGITS})::bigint"
        with self.place.phases.of("comparing"):
            return int(self.place.value(f"SELECT coalesce(sum({prefix}), 0) FROM {self.name} WHERE {where}", parameters))

    def digest(self) -> int:
        """Over all columns, bookkeeping included, but for the time of storing."""
        columns = ", ".join(name for name in self._names() if name != "_stored_at")
        row = f"hashtextextended(ROW({columns})::text, 0)::numeric"
        with self.place.phases.of("comparing"):
            return int(self.place.value(f"SELECT coalesce(sum({row}), 0) FROM {self.name}"))

    def export(self, rows: int | None = None) -> bytes:
        """The table, or so many of its rows, as COPY's text, bookkeeping included, in the order in which they lie there."""
        limit = "" if rows is None else f" LIMIT {rows}"
        query = f"COPY (SELECT {self.columns()} FROM {self.name}{limit}) TO STDOUT"
        with self.place.phases.of("exporting"), self.place.connection.cursor().copy(query) as copy:
            return b"".join(bytes(block) for block in copy)

    def columns(self) -> str:
        """All names, separated by commas."""
        return ", ".join(self._names())

    def indexes(self) -> list[str]:
        """Definitions of indexes and foreign keys."""
        keys = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'f'"
        indexes = "SELECT indexdef FROM pg_indexes WHERE schemaname || '.' || tablename = %s ORDER BY 1"
        return [row[0] for query in (indexes, keys) for row in self.place.connection.execute(query, [self.name])]

    def copy(self, lines: bytes, connections: int = 1) -> float:
        """Seconds that COPY of these lines takes, each connection with an equal part of them, until the last COMMIT."""
        statement = f"COPY {self.name} ({self.columns()}) FROM STDIN"
        parts = split_lines(lines, connections)
        begin, ends = threading.Barrier(connections + 1), []
        with ExitStack() as stack:
            stack.enter_context(self.place.phases.of("COPY"))
            opened = [stack.enter_context(psycopg.connect(self.place.database_url, autocommit=True)) for _ in parts]

            def copy_part(connection: psycopg.Connection[tuple[object, ...]], part: memoryview) -> None:
                begin.wait()
                _copy_over(connection, statement, part)
                ends.append(time.perf_counter())

            pairs = zip(opened, parts, strict=True)
            threads = [threading.Thread(target=copy_part, args=pair, daemon=True) for pair in pairs]
            for thread in threads:
                thread.start()
            begin.wait()
            started = time.perf_counter()
            for thread in threads:
                thread.join()
        if len(ends) < connections:
            raise RuntimeError("a COPY failed, see above")
        return max(ends) - started

    def _names(self) -> list[str]:
        query = (
            "SELECT quote_ident(attname) FROM pg_attribute"
            " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        )
        return [row[0] for row in self.place.connection.execute(query, [self.name])]


def _copy_over(connection: psycopg.Connection[tuple[object, ...]], statement: str, lines: memoryview) -> None:
    with connection.cursor().copy(statement) as copy:
        for first in range(0, len(lines), _CHUNK_BYTES):
            copy.write(lines[first : first + _CHUNK_BYTES])


def split_lines(lines: bytes, parts: int) -> list[memoryview]:
    """Parts of about the same size that end where lines end; COPY writes a newline inside a value as two characters."""
    view = memoryview(lines)
    ends = [0, *(lines.find(b"\n", len(lines) * part // parts) + 1 for part in range(1, parts)), len(lines)]
    return [view[first:last] for first, last in pairwise(ends)]
