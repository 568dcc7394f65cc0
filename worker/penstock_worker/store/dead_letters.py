"""Dead letters: what could not be stored, with the reason, in the transaction of its batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from penstock_worker.store.connection import Connection
from penstock_worker.store.foreign_text import indexable, storable

__all__ = ["Letter", "fingerprints_over_rate", "record_letters"]

#: Headers that a whole message's letter keeps, and characters of a header's name.
MAX_HEADERS = 50
MAX_HEADER_NAME = 200


@dataclass(slots=True)
class Letter:
    """One dead letter: `state` is `dead` or `held`; `payload` the event's bytes, or the message's if that was unreadable."""

    id: UUID
    state: str
    reason: str
    detail: str
    payload: bytes
    sqlstate: str | None = None
    constraint: str | None = None
    column: str | None = None
    type: str | None = None
    op: str | None = None
    version: int | None = None
    event_id: UUID | None = None
    producer: str | None = None
    epoch: UUID | None = None
    seq: int | None = None
    #: Of a whole message, so that it can be read again: what it said beside its body, and how many events it said were in it.
    content_type: str | None = None
    headers: dict[str, Any] | None = None
    events: int | None = None

    @property
    def fingerprint(self) -> str:
        """Groups letters with one cause: reason, SQLSTATE, constraint, column, type and producer; short enough for an index."""
        parts = (self.reason, self.sqlstate, self.constraint, self.column, self.type, self.producer)
        return ":".join(indexable(part or "") for part in parts)

    def row(self) -> dict[str, Any]:
        """The letter's columns. Texts come from outside: what PostgreSQL cannot store in them is made visible."""
        texts = ("detail", "producer", "type", "op", "column", "constraint", "content_type")
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        values |= {name: storable(values[name]) for name in texts if values[name] is not None}
        headers = None if self.headers is None else Jsonb(_plain_headers(self.headers))
        return values | {"fingerprint": self.fingerprint, "headers": headers}


def _plain_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON can say of headers, which on RabbitMQ may be times, bytes or tables, and as many as somebody liked to send."""
    return {storable(str(name))[:MAX_HEADER_NAME]: _plain(value) for name, value in islice(headers.items(), MAX_HEADERS)}


def _plain(value: object) -> bool | int | str | None:
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    return storable(value if isinstance(value, str) else repr(value))


def record_letters(connection: Connection, letters: Iterable[Letter]) -> None:
    """Insert letters, in the order of ids, lest two batches wait for each other; one that is there already stays as it is."""
    rows = [letter.row() for letter in sorted(letters, key=lambda letter: letter.id)]
    if rows:
        connection.cursor().executemany(
            "INSERT INTO penstock.dead_letters (id, state, reason, detail, sqlstate, constraint_name, column_name, "
            "fingerprint, type, op, version, event_id, producer, epoch, seq, payload, content_type, headers, events) "
            "VALUES (%(id)s, %(state)s, %(reason)s, %(detail)s, %(sqlstate)s, %(constraint)s, %(column)s, "
            "%(fingerprint)s, %(type)s, %(op)s, %(version)s, %(event_id)s, %(producer)s, %(epoch)s, %(seq)s, %(payload)s, "
            "%(content_type)s, %(headers)s, %(events)s) "
            "ON CONFLICT (id) DO NOTHING",
            rows,
        )


def fingerprints_over_rate(
    connection: Connection, letters: Sequence[Letter], per_minute: int, *, are_new: bool = True
) -> set[str]:
    """
    The fingerprints of dead letters that come so often that it smells of a bad deploy rather than of bad events.

    Counts those of the last minute and the given ones together, unless these are not new: a replay of old letters is no rate.
    """
    fresh = Counter(letter.fingerprint for letter in letters if letter.state == "dead")
    if not fresh:
        return set()
    recent = connection.execute(
        "SELECT fingerprint, count(*) FROM penstock.dead_letters "
        "WHERE fingerprint = ANY(%s) AND at > now() - interval '1 minute' GROUP BY fingerprint",
        [list(fresh)],
    )
    counts = (fresh if are_new else Counter()) + Counter({str(fingerprint): int(str(count)) for fingerprint, count in recent})
    return {fingerprint for fingerprint, count in counts.items() if count > per_minute}
