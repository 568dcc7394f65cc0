"""
Fences: whose events are refused, and up to which version.

| table       | what it holds                                                                                          |
|-------------|--------------------------------------------------------------------------------------------------------|
| `fences`    | the HMAC of a person's id, the highest version that is refused, the generation in which it was written |
| `fence_key` | the HMAC's key, made by the first erasure, and the generation: it grows with every change of a fence   |

An id is text, a number or a UUID, and each is another person's: "7" in a text column need not be 7 in a column of numbers. So
an erasure writes a fence for each kind that its id can be.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import re
import secrets
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast
from uuid import UUID

from psycopg import sql

from penstock_schemas.column import Kind
from penstock_schemas.record import RecordType
from penstock_worker.store.connection import Connection

__all__ = [
    "KINDS",
    "Fences",
    "add_generation",
    "forms_of",
    "own_digest",
    "set_fences",
    "subject_is",
    "subject_of",
    "subject_text",
]

#: What a subject's column may be of.
KINDS = (Kind.TEXT, Kind.UUID, Kind.BIGINT)

#: People of one kind that a process remembers as not erased. Beyond, it begins anew; an id takes some 100 bytes.
MAX_REMEMBERED = 100_000
_KEY_BYTES = 32
_NUMBER = re.compile(r"0|-?[1-9]\d{0,18}", re.ASCII)


def subject_of(record: RecordType) -> str | None:
    """The column by which rows of a type are erased; None where there is none, and for audit logs, which are kept."""
    declaration = record.declaration
    return None if declaration.is_audit_log else declaration.subject


def subject_text(value: object) -> str:
    """A subject as its column's text."""
    return str(value.value if isinstance(value, enum.Enum) else value)


def forms_of(person: str) -> dict[Kind, str]:
    """What a person's id can be in a column of each kind, as PostgreSQL writes it."""
    forms = {Kind.TEXT: person}
    with suppress(ValueError):
        forms[Kind.UUID] = str(UUID(person))
    if _NUMBER.fullmatch(person) and -(2**63) <= int(person) < 2**63:
        forms[Kind.BIGINT] = person
    return forms


def _digest(key: bytes, kind: Kind, text: str) -> bytes:
    return hmac.digest(key, _named(kind, text), "sha256")


def _named(kind: Kind, text: str) -> bytes:
    return f"{kind}:{text}".encode(errors="surrogatepass")


class _Hmac:
    """HMAC-SHA256 (RFC 2104) of many short texts: what is the key's part is hashed once, which is two thirds of the time."""

    def __init__(self, key: bytes) -> None:
        padded = key.ljust(hashlib.sha256().block_size, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))

    def digest(self, message: bytes) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()


@dataclass
class Fences:
    """The fences as a process knows them. They are read anew when an erasure has changed them, and cost nothing before that."""

    _generation: int | None = None
    _keys: list[_Hmac] = field(default_factory=list)
    _versions: dict[bytes, int] = field(default_factory=dict)
    #: By kind: who is not erased, and who is, up to which version.
    _clean: dict[Kind, set[str]] = field(default_factory=lambda: defaultdict(set))
    _erased: dict[Kind, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))

    @property
    def is_empty(self) -> bool:
        """Whether nobody has been erased."""
        return not self._versions

    def refresh(self, connection: Connection, generation: int | None) -> None:
        """
        Read what is new.

        Args:
            connection: In the batch's transaction, after `penstock.begin_batch()`.
            generation: As that told.
        """
        if generation != self._generation:
            # A lower one than before is that of a restored database.
            known = self._generation if generation is not None and (self._generation or 0) < generation else None
            if known is None:
                self._versions.clear()
            rows = connection.execute("SELECT subject, version FROM penstock.fences WHERE generation > %s", [known or 0])
            self._versions.update(cast("list[tuple[bytes, int]]", rows.fetchall()))
            keys = connection.execute("SELECT key FROM penstock.fence_key ORDER BY at, key")
            self._keys = [_Hmac(cast("bytes", key)) for (key,) in keys]
            self._clean.clear()
            self._erased.clear()
            self._generation = generation

    def doubtful(self, kind: Kind, written: set[str]) -> set[str]:
        """Those, as the text of COPY, of whom it is not known yet that they are not erased."""
        return written - self._clean[kind]

    def versions(self, kind: Kind, texts: Iterable[str]) -> Mapping[str, int]:
        """Those of some people who are erased, each with the highest version that is refused."""
        clean, erased = self._clean[kind], self._erased[kind]
        found = {}
        for text in set(texts) - clean:
            if text not in erased:
                version = self._version(kind, text)
                if version is None:
                    if len(clean) >= MAX_REMEMBERED:
                        clean.clear()
                    # What holds a backslash is somebody else where it is the text of COPY.
                    if "\\" not in text:
                        clean.add(text)
                    continue
                erased[text] = version
            found[text] = erased[text]
        return found

    def version(self, kind: Kind, text: str) -> int:
        """The highest version of a person that is refused; -1 if none is."""
        return self.versions(kind, (text,)).get(text, -1)

    def _version(self, kind: Kind, text: str) -> int | None:
        message = _named(kind, text)
        found = [self._versions.get(key.digest(message)) for key in self._keys]
        return max((version for version in found if version is not None), default=None)


def set_fences(connection: Connection, person: str, allowance_us: int) -> int:
    """
    Refuse all that is said of a person up to now; commits.

    Args:
        connection: In autocommit.
        person: The id.
        allowance_us: Microseconds that a producer's clock may be ahead.

    Returns:
        The highest version that is refused.
    """
    with connection.transaction():
        key, generation = _key_and_generation(connection)
        row = connection.execute(
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + %s", [allowance_us]
        ).fetchone()
        assert row is not None  # a SELECT without FROM has a row
        version = int(str(row[0]))
        for kind, text in forms_of(person).items():
            connection.execute(
                "INSERT INTO penstock.fences AS f (subject, version, generation) VALUES (%s, %s, %s) ON CONFLICT (subject)"
                " DO UPDATE SET version = GREATEST(f.version, excluded.version), generation = excluded.generation, at = now()",
                [_digest(key, kind, text), version, generation],
            )
        return version


def own_digest(connection: Connection, person: str) -> bytes:
    """What stands for a person in `penstock.privacy_log`."""
    with connection.transaction():
        key, _ = _key_and_generation(connection, grows=False)
    return _digest(key, Kind.TEXT, person)


def add_generation(connection: Connection, at_least: int = 0) -> int:
    """Begin a new generation, in the caller's transaction; no other can meanwhile."""
    row = connection.execute(
        "UPDATE penstock.fence_key SET generation = GREATEST(%s, (SELECT max(generation) FROM penstock.fence_key)) + 1"
        " RETURNING generation",
        [at_least],
    ).fetchone()
    return int(str(row[0])) if row else 0


def _key_and_generation(connection: Connection, *, grows: bool = True) -> tuple[bytes, int]:
    """The key, made if there is none; whoever changes fences waits for others who do."""
    connection.execute("LOCK TABLE penstock.fence_key IN SHARE ROW EXCLUSIVE MODE")
    generation = add_generation(connection) if grows else 0
    row = connection.execute("SELECT key FROM penstock.fence_key ORDER BY at, key LIMIT 1").fetchone()
    if row is not None:
        return cast("bytes", row[0]), generation
    key = secrets.token_bytes(_KEY_BYTES)
    connection.execute("INSERT INTO penstock.fence_key (key, generation) VALUES (%s, %s)", [key, int(grows)])
    return key, int(grows)


def subject_is(record: RecordType, forms: Mapping[Kind, str], alias: str = "r") -> sql.Composable:
    """The SQL condition that a row is about a person; false where its type names none, or the id is none of its kind."""
    subject = record.declaration.subject
    if subject is None:
        return sql.SQL("false")
    kind = record.by_name[subject].kind
    if kind not in forms:
        return sql.SQL("false")
    return sql.SQL("{} = {}::{}").format(sql.Identifier(alias, subject), forms[kind], sql.SQL(str(kind)))
