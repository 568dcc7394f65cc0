"""
What a record type says about itself: one frozen `Declaration` per class.

    class Invoice(Record):
        __record__ = Declaration(type="billing.invoice", table="billing.invoices", key="invoice_id")

Everything else (table, migration, upsert, retention, recovery) follows from it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from penstock_schemas.errors import DeclarationError

__all__ = ["Category", "Declaration", "Index", "Lifecycle", "Parent"]

Category = Literal["internal", "sensitive"]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_DOTTED = re.compile(rf"{_NAME.pattern}\.{_NAME.pattern}")


@dataclass(frozen=True, slots=True)
class Parent:
    """The record this one belongs to: `field` of the child holds the single-column key of a row of `type`."""

    field: str
    type: str


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """
    A record that begins, works and ends.

    Args:
        field: The column that holds the state.
        terminal: States that nothing non-terminal may overwrite, however late or new it is.
        moves: Columns that change together with the state (ended_at, error ...), ordered by the same rule.
        stale_after: Silence after which a record without a terminal state counts as incomplete.
        abandon_after: Silence after which recovery gives up and writes `interrupted`.
    """

    field: str
    terminal: tuple[str, ...]
    moves: tuple[str, ...] = ()
    stale_after: timedelta = timedelta(minutes=30)
    abandon_after: timedelta = timedelta(days=1)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column ordered by (rank, version, event id)."""
        return (self.field, *self.moves)


@dataclass(frozen=True, slots=True, init=False)
class Index:
    """An index of the table; `where` makes it partial, `method` is `btree` or `gin`."""

    columns: tuple[str, ...]
    method: Literal["btree", "gin"]
    where: str | None

    def __init__(self, *columns: str, method: Literal["btree", "gin"] = "btree", where: str | None = None) -> None:
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "method", method)
        object.__setattr__(self, "where", where)


@dataclass(frozen=True, slots=True, init=False)
class Declaration:
    """
    How one record type is stored.

    Args:
        type: Name on the wire, `domain.noun`.
        table: `schema.table`; one PostgreSQL schema per domain.
        key: One column or several. A shared installation puts its tenant first.
        parent: The record this one belongs to, held by a real foreign key.
        lifecycle: Its states, if it has any.
        append_only: The time column by which the table is partitioned by month. It must be part of `key`; such a type has no
            parent, no children and no deletes.
        retention: How long rows are kept; None keeps them for ever.
        subject: The field that names the person a row is about.
        category: How sensitive the rows are.
        content: What the rows hold, in the words of a privacy notice, such as "interaction history".
        is_audit_log: Rows are kept when their person is erased; what may be kept so is a matter of law.
        indexes: Besides the key's. The parent's column is always indexed.

    Raises:
        DeclarationError: The words contradict each other.
    """

    type: str
    table: str
    key: tuple[str, ...]
    parent: Parent | None
    lifecycle: Lifecycle | None
    append_only: str | None
    retention: timedelta | None
    subject: str | None
    category: Category
    content: str | None
    is_audit_log: bool
    indexes: tuple[Index, ...] = field(default=())

    def __init__(
        self,
        *,
        type: str,
        table: str,
        key: str | Sequence[str],
        parent: Parent | None = None,
        lifecycle: Lifecycle | None = None,
        append_only: str | None = None,
        retention: timedelta | None = None,
        subject: str | None = None,
        category: Category = "internal",
        content: str | None = None,
        is_audit_log: bool = False,
        indexes: Sequence[Index] = (),
    ) -> None:
        values = {
            "type": type,
            "table": table,
            "key": (key,) if isinstance(key, str) else tuple(key),
            "parent": parent,
            "lifecycle": lifecycle,
            "append_only": append_only,
            "retention": retention,
            "subject": subject,
            "category": category,
            "content": content,
            "is_audit_log": is_audit_log,
            "indexes": tuple(indexes),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check()

    @property
    def schema(self) -> str:
        """The PostgreSQL schema of the table."""
        return self.table.split(".")[0]

    @property
    def table_name(self) -> str:
        """The table without its schema."""
        return self.table.split(".")[1]

    def _check(self) -> None:
        for what in (self.type, self.table):
            if not _DOTTED.fullmatch(what):
                raise DeclarationError(f"{what!r}: write it as domain.name, lower case, at most 63 characters each")
        if not self.key:
            raise DeclarationError(f"{self.type}: a record needs a key")
        if len(set(self.key)) != len(self.key):
            raise DeclarationError(f"{self.type}: the key names a column twice")
        if self.append_only is not None and self.append_only not in self.key:
            raise DeclarationError(f"{self.type}: the time column {self.append_only!r} must be part of the key")
        if self.append_only is not None and self.parent is not None:
            raise DeclarationError(f"{self.type}: an append-only record has no parent")
        if self.parent is not None and self.parent.field in self.key:
            raise DeclarationError(f"{self.type}: the parent's column {self.parent.field!r} must not be part of the key")
