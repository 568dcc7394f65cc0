"""The proof of an erasure: for every table, how many rows are about the person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from psycopg import sql

from penstock_schemas.column import Kind
from penstock_schemas.record import RecordType
from penstock_schemas.registry import Registry
from penstock_worker.store.connection import Connection
from penstock_worker.store.legal_holds import key_as_json, list_holds, on_hold
from penstock_worker.store.privacy.erased import ERASED
from penstock_worker.store.privacy.kept import table_of
from penstock_worker.store.privacy.letters import persons_letters
from penstock_worker.store.privacy.person import about, can_name

__all__ = ["Kept", "Proof", "TableProof", "count_person", "holds_on_person", "kept_rows"]

#: Penstock's own tables that hold nothing of any person, or her HMAC only.
IMPERSONAL = (
    "fence_key",
    "fences",
    "ledger",
    "maintenance_runs",
    "privacy_log",
    "producers",
    "replay_pauses",
    "schedule",
    "suspects",
    "table_sizes",
)


@dataclass(slots=True)
class TableProof:
    """
    Rows of a table that are about a person.

    `why` says why there are none before, or some after.
    """

    table: str
    before: int = 0
    after: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """Rows of a type that an erasure left, and the holds that may have kept them."""

    type: str
    rows: int
    holds: list[int]
    reasons: list[str]


@dataclass(slots=True)
class Proof:
    """What an erasure did. `is_complete` where nothing is kept but audit logs."""

    fence: int | None
    tables: list[TableProof]
    kept: list[Kept] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether nothing but audit logs is left."""
        return not self.kept

    def as_json(self) -> dict[str, Any]:
        """As it is printed."""
        return {**asdict(self), "is_complete": self.is_complete}

    def for_log(self) -> dict[str, Any]:
        """The same without people's words, which may tell who it was."""
        return {**self.as_json(), "kept": [{"type": kept.type, "rows": kept.rows, "holds": kept.holds} for kept in self.kept]}


def count_person(connection: Connection, registry: Registry, forms: Mapping[Kind, str]) -> dict[str, TableProof]:
    """Rows about a person in every table, in `before`. By table's name."""
    counts: dict[str, TableProof] = {}
    for record in registry.values():
        rows = _count(connection, record, _is_left(registry, record, forms)) if can_name(registry, record) else 0
        counts[record.declaration.table] = TableProof(record.declaration.table, rows, why=_why(registry, record))
    letters = Counter(letter.letter.state for letter in persons_letters(connection, forms, registry))
    counts["penstock.dead_letters"] = TableProof("penstock.dead_letters", sum(letters.values()))
    counts["penstock.recoveries"] = TableProof("penstock.recoveries", _recoveries(connection, registry, forms))
    noted = connection.execute("SELECT count(*) FROM penstock.erased_parents").fetchone()
    waiting = TableProof(
        "penstock.erased_parents", int(str(noted[0])) if noted else 0, why="keys whose children are to be emptied"
    )
    counts["penstock.erased_parents"] = waiting
    names = [forms[kind] for kind in forms]
    holds = connection.execute("SELECT count(*) FROM penstock.legal_holds WHERE subject = ANY (%s)", [names]).fetchone()
    counts["penstock.legal_holds"] = TableProof(
        "penstock.legal_holds", int(str(holds[0])) if holds else 0, why="who was on hold, and why: kept as evidence"
    )
    counts |= {f"penstock.{name}": TableProof(f"penstock.{name}", why="nothing personal, or an HMAC") for name in IMPERSONAL}
    return counts


def kept_rows(connection: Connection, registry: Registry, forms: Mapping[Kind, str]) -> list[Kept]:
    """The rows that a legal hold kept."""
    kept = []
    for record in registry.values():
        if record.declaration.is_audit_log or not can_name(registry, record):
            continue
        condition = sql.SQL("{} AND {}").format(_is_left(registry, record, forms), on_hold(registry, record))
        rows = _count(connection, record, condition)
        if rows:
            names = {record.name, *_ancestors(registry, record)}
            holds = [
                hold
                for hold in list_holds(connection)
                if hold.type in names or (hold.type is None and hold.subject in forms.values())
            ]
            kept.append(Kept(record.name, rows, [hold.id for hold in holds], [hold.reason for hold in holds]))
    return kept


def holds_on_person(connection: Connection, forms: Mapping[Kind, str]) -> list[tuple[int, str]]:
    """The holds on all that is about a person: number and reason."""
    holds = list_holds(connection)
    return [(hold.id, hold.reason) for hold in holds if hold.type is None and hold.subject in forms.values()]


def _is_left(registry: Registry, record: RecordType, forms: Mapping[Kind, str]) -> sql.Composable:
    """About the person; or below an erased row, which tells no more whose it was, and not empty yet."""
    condition = about(registry, record, forms)
    parent = record.declaration.parent
    if parent is None:
        return condition
    target = registry[parent.type]
    return sql.SQL(
        "({condition} OR (r._version IS NOT NULL AND EXISTS (SELECT FROM {parent} AS p WHERE p.{key} = r.{field}"
        " AND p._deleted_event = {erased} AND r._oldest <= p._deleted_version)))"
    ).format(
        condition=condition,
        parent=table_of(target),
        key=sql.Identifier(target.key[0]),
        field=sql.Identifier(parent.field),
        erased=ERASED,
    )


def _recoveries(connection: Connection, registry: Registry, forms: Mapping[Kind, str]) -> int:
    """Recoveries of rows that are about the person, or of rows that were erased."""
    total = 0
    for record in registry.values():
        if record.declaration.lifecycle and can_name(registry, record):
            query = sql.SQL(
                "SELECT count(*) FROM penstock.recoveries AS v JOIN {} AS r ON v.key = {}"
                " WHERE v.type = {} AND ({} OR r._deleted_event = {})"
            ).format(table_of(record), key_as_json(record), record.name, about(registry, record, forms), ERASED)
            row = connection.execute(query).fetchone()
            total += int(str(row[0])) if row else 0
    return total


def _count(connection: Connection, record: RecordType, condition: sql.Composable) -> int:
    row = connection.execute(sql.SQL("SELECT count(*) FROM {} AS r WHERE {}").format(table_of(record), condition)).fetchone()
    return int(str(row[0])) if row else 0


def _why(registry: Registry, record: RecordType) -> str:
    if record.declaration.is_audit_log:
        return "audit log: kept"
    return "" if can_name(registry, record) else "names no person"


def _ancestors(registry: Registry, record: RecordType) -> list[str]:
    parent = record.declaration.parent
    return [parent.type, *_ancestors(registry, registry[parent.type])] if parent else []
