"""Which dead letters are meant: the one filter of all commands, as the condition of a WHERE."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import sql

__all__ = ["FINGERPRINT_MARK", "LetterFilter"]

#: A fingerprint is long; people name it by this many hexadecimal digits, which `dead-letters list` shows.
FINGERPRINT_MARK = sql.SQL("left(md5(fingerprint), 10)")


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """
    Letters for which all that is given holds; all letters where nothing is.

    `since` and `until` bound when a letter was written, `until` excluded. `fingerprint` is the whole of it or its mark.
    """

    state: str | None = None
    type: str | None = None
    reason: str | None = None
    producer: str | None = None
    fingerprint: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    ids: tuple[UUID, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether every letter is meant."""
        return self == LetterFilter()

    @property
    def condition(self) -> sql.Composed:
        """What stands behind WHERE; only what is given is in it, so that an index can serve it."""
        return sql.SQL(" AND ").join([sql.SQL("true"), *self._parts()])

    def _parts(self) -> Iterator[sql.Composable]:
        equal: dict[str, Any] = {name: getattr(self, name) for name in ("state", "type", "reason", "producer")}
        for name, value in equal.items():
            if value is not None:
                yield sql.SQL("{} = {}").format(sql.Identifier(name), value)
        if self.fingerprint is not None:
            yield sql.SQL("{0} IN (fingerprint, {1})").format(self.fingerprint, FINGERPRINT_MARK)
        if self.since is not None:
            yield sql.SQL("at >= {}").format(self.since)
        if self.until is not None:
            yield sql.SQL("at < {}").format(self.until)
        if self.ids:
            yield sql.SQL("id = ANY ({})").format(list(self.ids))
