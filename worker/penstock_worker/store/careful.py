"""
Writing a table whose rows are not all welcome: PostgreSQL itself looks for those that it refuses.

The rows go to a temporary table, all as text, so that not even their types can object there. Then one block of PL/pgSQL merges
them, `STEP_ROWS` at a time, and row by row where a step was refused; each try is a subtransaction, and what remains is noted.

Why in the server: a search that is led from here costs a parse and a plan of the upsert at every step, since psycopg forgets
prepared statements with every rollback and emptying the staging table makes PostgreSQL plan anew. That is some 5 ms of one core
each time, for ten thousand tries in a batch of which every event is bad.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

from penstock_worker.store.connection import Connection
from penstock_worker.store.sqlstate import NOT_A_ROWS
from penstock_worker.store.upsert import UpsertPlan, literal, quote

__all__ = ["Refusal", "Search"]

#: Rows of one try. With fewer the tries cost more than the rows, with more the neighbours of a culprit do.
STEP_ROWS = 64

#: Columns of records do not begin with an underscore, so that neither `_place` nor the block's variables can be one of them.
_ROWS = "pg_temp.penstock_rows"
_REFUSED = "pg_temp.penstock_refused"


class Refusal(NamedTuple):
    """What PostgreSQL said of the row at a place."""

    place: int
    sqlstate: str
    message: str
    detail: str
    constraint: str
    column: str


@dataclass(frozen=True, slots=True)
class Search:
    """
    One careful write: `fill`, `run`, `finish`, in a transaction that the caller owns.

    Any of them may raise a `psycopg.Error`, which is then no row's fault; the caller rolls back.
    """

    connection: Connection
    plan: UpsertPlan

    def fill(self, lines: bytes) -> None:
        """Take the lines of `copy_text`; a line's place is its number, from 0."""
        columns = ", ".join(f"{quote(name)} text" for name in self.plan.names)
        self.connection.execute(f"CREATE TEMP TABLE penstock_rows (_place integer PRIMARY KEY, {columns}) ON COMMIT DROP")
        self.connection.execute(
            "CREATE TEMP TABLE penstock_refused (_place integer, sqlstate text, message text, detail text, "
            "constraint_name text, column_name text) ON COMMIT DROP"
        )
        numbered = zip(count(), lines.split(b"\n")[:-1], strict=False)
        with self.connection.cursor().copy(f"COPY {_ROWS} FROM STDIN") as copy:
            copy.write(b"".join(b"%d\t%b\n" % pair for pair in numbered))

    def run(self) -> list[Refusal]:
        """Merge the rows; those that are refused, by place."""
        self.connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        self.connection.execute(f"DO {literal(self._block)}")
        self.connection.execute("SET LOCAL plan_cache_mode = DEFAULT")
        found = self.connection.execute(f"SELECT * FROM {_REFUSED} ORDER BY _place").fetchall()
        return [Refusal(*row) for row in found]  # type: ignore[arg-type]  # the columns above

    def finish(self) -> list[tuple[Any, ...]]:
        """Clean up; what `UpsertPlan.stamps_of_staged` says of the rows that were merged."""
        self.connection.execute(f"DELETE FROM {_ROWS} AS r USING {_REFUSED} AS x WHERE r._place = x._place")
        stamps = self.connection.execute(self.plan.stamps_from(f"({self._typed})")).fetchall()
        self.connection.execute(f"DROP TABLE {_ROWS}, {_REFUSED}")
        return stamps

    @property
    def _typed(self) -> str:
        columns = ", ".join(f"{quote(name)}::{kind} AS {quote(name)}" for name, kind in self.plan.types.items())
        return f"SELECT {columns} FROM {_ROWS}"

    @property
    def _block(self) -> str:
        step = f"({self._typed} WHERE _place >= _first AND _place < _first + _width ORDER BY _place)"
        return f"""
            #variable_conflict use_column
            DECLARE
                _rows integer := (SELECT count(*) FROM {_ROWS});
                _first integer := 0;
                _width integer := {STEP_ROWS};
                _alone_until integer := 0;
                _refused {_REFUSED}%ROWTYPE;
            BEGIN
                WHILE _first < _rows LOOP
                    BEGIN
                        {self.plan.upsert_from(step)};
                        _first := _first + _width;
                    EXCEPTION WHEN OTHERS THEN
                        GET STACKED DIAGNOSTICS
                            _refused.sqlstate = RETURNED_SQLSTATE, _refused.message = MESSAGE_TEXT,
                            _refused.detail = PG_EXCEPTION_DETAIL, _refused.constraint_name = CONSTRAINT_NAME,
                            _refused.column_name = COLUMN_NAME;
                        IF _refused.sqlstate ~ {literal(NOT_A_ROWS)} THEN
                            RAISE;
                        END IF;
                        IF _width = 1 THEN
                            _refused._place := _first;
                            INSERT INTO {_REFUSED} SELECT _refused.*;
                            _first := _first + 1;
                        ELSE
                            _width := 1;
                            _alone_until := _first + {STEP_ROWS};
                        END IF;
                    END;
                    IF _first >= _alone_until THEN
                        _width := {STEP_ROWS};
                    END IF;
                END LOOP;
            END
        """
