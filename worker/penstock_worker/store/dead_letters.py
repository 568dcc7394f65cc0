"""Dead letters: what could not be stored, with the reason, in the transaction of its batch."""

from __future__ import annotations

from binascii import hexlify
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from penstock_worker.store.connection import Connection
from penstock_worker.store.copy_text import encode, escaped, join_columns, join_lines, json_texts
from penstock_worker.store.foreign_text import indexable, storable

__all__ = ["Letter", "fingerprints_of", "fingerprints_over_rate", "record_letters"]

#: Headers that a whole message's letter keeps, and characters of a header's name.
MAX_HEADERS = 50
MAX_HEADER_NAME = 200
#: Payloads that become text together, which takes some four times their bytes of memory.
PART_BYTES = 4 * 1024 * 1024

#: Fields of a letter with texts from outside, and those that are as they are said; the table names some of them otherwise.
_TEXTS = ("detail", "producer", "type", "op", "column", "constraint", "content_type")
_PLAIN = ("sqlstate", "version", "event_id", "epoch", "seq", "events")
_COLUMNS = (
    "id, state, reason, fingerprint, "
    "detail, producer, type, op, column_name, constraint_name, content_type, "
    "sqlstate, version, event_id, epoch, seq, events, headers, payload"
)
#: Where letters wait for their INSERT.
_STAGED = "staging_dead_letters"


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
        return ":".join(indexable(part or "") for part in _causes(self))

    def row(self) -> dict[str, Any]:
        """The letter's columns. Texts come from outside: what PostgreSQL cannot store in them is made visible."""
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        values |= {name: storable(values[name]) for name in _TEXTS if values[name] is not None}
        headers = None if self.headers is None else Jsonb(_plain_headers(self.headers))
        return values | {"fingerprint": self.fingerprint, "headers": headers}


#: What makes letters one group.
_causes = attrgetter("reason", "sqlstate", "constraint", "column", "type", "producer")


def _plain_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON can say of headers, which on RabbitMQ may be times, bytes or tables, and as many as somebody liked to send."""
    return {storable(str(name))[:MAX_HEADER_NAME]: _plain(value) for name, value in islice(headers.items(), MAX_HEADERS)}


def _plain(value: object) -> bool | int | str | None:
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    return storable(value if isinstance(value, str) else repr(value))


def record_letters(connection: Connection, letters: Iterable[Letter]) -> None:
    """Insert letters, in the order of ids, lest two batches wait for each other; one that is there already stays as it is."""
    ordered = sorted(letters, key=lambda letter: letter.id.int)
    if not ordered:
        return
    # By COPY, which takes a fraction of what as many INSERTs do: who sends bad events must not slow the good ones beside them.
    # The table is made once per connection, and anew where that was rolled back.
    connection.execute(
        f"CREATE TEMP TABLE IF NOT EXISTS {_STAGED} ON COMMIT DELETE ROWS AS "
        f"SELECT {_COLUMNS} FROM penstock.dead_letters WITH NO DATA",
        prepare=False,
    )
    with connection.cursor().copy(f"COPY pg_temp.{_STAGED} ({_COLUMNS}) FROM STDIN") as copy:
        for part in _parts(ordered):
            copy.write(_lines(part))
    connection.execute(
        f"INSERT INTO penstock.dead_letters ({_COLUMNS}) SELECT {_COLUMNS} FROM pg_temp.{_STAGED} ON CONFLICT (id) DO NOTHING"
    )


def _parts(letters: Sequence[Letter]) -> Iterator[list[Letter]]:
    """The letters, so many at a time that their text needs no more memory than that of a batch of good events."""
    part: list[Letter] = []
    size = 0
    for letter in letters:
        if part and size + len(letter.payload) > PART_BYTES:
            yield part
            part, size = [], 0
        part.append(letter)
        size += len(letter.payload)
    yield part


def _lines(letters: Sequence[Letter]) -> bytes:
    """What COPY reads. Payloads come to it last: as hexadecimal digits, which want no escape, they are most of the text."""
    headers = [None if letter.headers is None else _plain_headers(letter.headers) for letter in letters]
    columns = [
        [str(letter.id) for letter in letters],
        [letter.state for letter in letters],
        [letter.reason for letter in letters],
        escaped(fingerprints_of(letters)),
        *(encode(_storables, list(map(attrgetter(name), letters))) for name in _TEXTS),
        *(encode(_strings, list(map(attrgetter(name), letters))) for name in _PLAIN),
        encode(json_texts, headers),
    ]
    lines = join_lines(join_columns(columns)).split(b"\n")[:-1]
    return b"".join(b"%b\t\\\\x%b\n" % (line, hexlify(letter.payload)) for line, letter in zip(lines, letters, strict=True))


def _storables(texts: Iterable[str]) -> list[str]:
    return escaped(list(map(storable, texts)))


def _strings(values: Iterable[object]) -> list[str]:
    return list(map(str, values))


def fingerprints_of(letters: Iterable[Letter]) -> list[str]:
    """The fingerprint of each letter. Most have the same few, so that this costs less than asking each for its own."""
    known: dict[tuple[str | None, ...], str] = {}
    found = []
    for letter in letters:
        parts = _causes(letter)
        if parts not in known:
            known[parts] = letter.fingerprint
        found.append(known[parts])
    return found


def fingerprints_over_rate(
    connection: Connection, letters: Sequence[Letter], per_minute: int, *, are_new: bool = True
) -> set[str]:
    """
    The fingerprints of dead letters that come so often that it smells of a bad deploy rather than of bad events.

    Counts those of the last minute and the given ones together, unless these are not new: a replay of old letters is no rate.
    """
    fresh = Counter(fingerprints_of(letter for letter in letters if letter.state == "dead"))
    if not fresh:
        return set()
    # No more are counted than it takes to know: with many, that is what would cost.
    recent = connection.execute(
        "SELECT fingerprint, (SELECT count(*) FROM (SELECT FROM penstock.dead_letters AS letter"
        " WHERE letter.fingerprint = fresh.fingerprint AND at > now() - interval '1 minute'"
        " ORDER BY at DESC LIMIT %s) AS latest) FROM unnest(%s::text[]) AS fresh (fingerprint)",
        [per_minute + 1, list(fresh)],
    )
    counts = (fresh if are_new else Counter()) + Counter({str(fingerprint): int(str(count)) for fingerprint, count in recent})
    return {fingerprint for fingerprint, count in counts.items() if count > per_minute}
