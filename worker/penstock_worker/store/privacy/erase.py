"""
Erasing a person: the fence, then the rows, their children, and the letters.

The fence comes first and is committed, so that nothing comes in behind the work. Every step may be done twice: an erasure that
was stopped is finished by asking for it again, and beat finishes one that nobody has asked for again (`finish_erasures`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import cast

from psycopg import sql

from penstock_schemas.column import Kind
from penstock_schemas.record import RecordType
from penstock_schemas.registry import Registry
from penstock_worker.errors import ConfigurationError, PersonOnHold
from penstock_worker.settings import Settings
from penstock_worker.store.connection import Connection
from penstock_worker.store.privacy import log, report
from penstock_worker.store.privacy.barrier import LOCK, wait_for_batches
from penstock_worker.store.privacy.children import note_unemptied
from penstock_worker.store.privacy.fences import Fences, forms_of, set_fences, subject_is, subject_of
from penstock_worker.store.privacy.kept import table_of
from penstock_worker.store.privacy.letters import erase_letters, erased_keys
from penstock_worker.store.privacy.person import check_tables
from penstock_worker.store.privacy.report import Proof
from penstock_worker.store.privacy.sweep import sweep
from penstock_worker.store.privacy.tombstones import Eraser, Tell, above_fence, erased_already

__all__ = ["alone", "erase_fenced", "erase_person", "finish_erasures", "known_fences", "plan_erasure"]

#: Seconds after which an erasure that has not ended, and is not under way, is finished by beat.
ABANDONED_S = 600
#: Names that are compared with the fences at once.
NAMES = 2_000


def plan_erasure(connection: Connection, registry: Registry, person: str) -> Proof:
    """What an erasure would find; nothing is changed, nor noted."""
    forms = forms_of(person)
    check_tables(connection, registry)
    counts = report.count_person(connection, registry, forms)
    return Proof(None, list(counts.values()), report.kept_rows(connection, registry, forms))


def erase_person(
    connection: Connection, registry: Registry, settings: Settings, request: log.Request, tell: Tell = lambda _: None
) -> Proof:
    """
    Erase everything about a person but audit logs and what is on legal hold, and refuse what is still to come.

    Args:
        connection: In autocommit.
        registry: Of the record types.
        settings: How far ahead clocks may be, and how long a batch may take.
        request: Whom, who asks, and why: noted in `penstock.privacy_log`.
        tell: Told how many rows more are done.

    Returns:
        The proof, which is also noted.

    Raises:
        PersonOnHold: All of the person is on hold; nothing was changed.
        ConfigurationError: The types of some tables are not known, and nothing was changed. Or: another erasure is under way,
            or a batch does not end.
        DatabaseAway: Rows stayed locked.
    """
    forms = forms_of(request.person)
    check_tables(connection, registry)
    with alone(connection):
        holds = report.holds_on_person(connection, forms)
        if holds:
            told = "; ".join(f"hold {number}: {reason}" for number, reason in holds)
            raise PersonOnHold(f"nothing was erased, the person is on legal hold ({told}): release it first")
        connection.execute("SET statement_timeout = 0")
        before = report.count_person(connection, registry, forms)
        # Both or neither: beat finishes what is noted, and knows by the fence alone whom it is about.
        with connection.transaction():
            entry = log.begin_entry(connection, "erase", request)
            version = set_fences(connection, request.person, int(settings.clock_ahead_limit_s * 1_000_000))
        wait_for_batches(connection, settings.batch_time_limit_s)
        eraser = Eraser(connection, registry, tell)
        for record in registry.values():
            if subject_of(record):
                _erase_old_life(eraser, record, forms, version)
        fences = known_fences(connection)
        _erase_named_in_letters(eraser, fences)
        note_unemptied(connection, registry)
        sweep(eraser, settings.batch_time_limit_s)
        erase_letters(connection, fences, registry)
        after = report.count_person(connection, registry, forms)
        for name, table in before.items():
            table.after = after[name].before
        proof = Proof(version, list(before.values()), report.kept_rows(connection, registry, forms))
        log.end_entry(connection, entry, proof.for_log())
    return proof


def erase_fenced(eraser: Eraser, settings: Settings) -> dict[str, int]:
    """
    Erase everything about everybody who has a fence, known by HMAC alone: every name in every table is compared.

    Returns:
        Rows by type, and letters.

    Raises:
        ConfigurationError: The types of some tables are not known, or a batch does not end.
    """
    check_tables(eraser.connection, eraser.registry)
    connection, fences = eraser.connection, known_fences(eraser.connection)
    erased: dict[str, int] = {}
    wait_for_batches(connection, settings.batch_time_limit_s)
    for record in eraser.registry.values():
        subject = subject_of(record)
        if subject is None:
            continue
        kind = record.by_name[subject].kind
        query = sql.SQL("SELECT DISTINCT {0}::text FROM {1} WHERE {0} IS NOT NULL").format(
            sql.Identifier(subject), table_of(record)
        )
        found: dict[str, int] = {}
        for names in _names(connection, query):
            found |= fences.versions(kind, names)
        for name, version in found.items():
            rows = _erase_old_life(eraser, record, {kind: name}, version)
            if rows:
                erased[record.name] = erased.get(record.name, 0) + rows
    for name, rows in _erase_named_in_letters(eraser, fences).items():
        erased[name] = erased.get(name, 0) + rows
    note_unemptied(connection, eraser.registry)
    for name, rows in sweep(eraser, settings.batch_time_limit_s).items():
        erased[name] = erased.get(name, 0) + rows
    letters = erase_letters(connection, fences, eraser.registry)
    return erased | ({"dead_letters": letters} if letters else {})


def finish_erasures(eraser: Eraser, settings: Settings, max_parents: int) -> dict[str, int]:
    """
    Empty children that came late, and finish erasures that were stopped; a bounded piece of work for the former.

    Returns:
        Rows by type; `finished` erasures.
    """
    connection = eraser.connection
    with alone(connection, is_required=False) as is_alone:
        if not is_alone:
            return {}
        query = (
            "SELECT id FROM penstock.privacy_log WHERE action = 'erase' AND ended_at IS NULL"
            " AND started_at < now() - make_interval(secs => %s) ORDER BY id"
        )
        stopped = [int(str(number)) for (number,) in connection.execute(query, [ABANDONED_S])]
        if not stopped:
            return sweep(eraser, settings.batch_time_limit_s, max_parents)
        connection.execute("SET statement_timeout = 0")
        erased = erase_fenced(eraser, settings)
        for entry in stopped:
            log.end_entry(connection, entry, {"finished_by": "maintenance", "rows": erased})
        return erased | {"finished": len(stopped)}


def known_fences(connection: Connection) -> Fences:
    """All fences, as of now."""
    row = connection.execute("SELECT max(generation) FROM penstock.fence_key").fetchone()
    fences = Fences()
    fences.refresh(connection, cast("int | None", row[0]) if row else None)
    return fences


@contextmanager
def alone(connection: Connection, *, is_required: bool = True) -> Iterator[bool]:
    """
    Keep other erasures out meanwhile.

    Raises:
        ConfigurationError: One is under way; where it `is_required` to be alone, else that is told.
    """
    row = connection.execute("SELECT pg_try_advisory_lock(%s, 1)", [LOCK]).fetchone()
    if row != (True,):
        if is_required:
            raise ConfigurationError("another erasure is under way: wait until it is over, and run the command again")
        yield False
        return
    try:
        yield True
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s, 1)", [LOCK])


def _erase_old_life(eraser: Eraser, record: RecordType, forms: Mapping[Kind, str], version: int) -> int:
    """Erase the rows of a type that name a person; of the new life's nothing but the children that are older than that."""
    is_persons, is_new = subject_is(record, forms), above_fence(record, version)
    eraser.note_parents(record, sql.SQL("{} AND {}").format(is_persons, is_new), version)
    is_done = _is_done(record.declaration.append_only, version)
    return eraser.erase(record, sql.SQL("{} AND NOT {} AND NOT {}").format(is_persons, is_new, is_done), version)


def _erase_named_in_letters(eraser: Eraser, fences: Fences) -> dict[str, int]:
    """
    Erase the rows of which only a dead letter tells whose they are, be they there because of their children alone.

    A row that names somebody is left: those of the person are erased already.
    """
    found: dict[tuple[str, int], set[str]] = defaultdict(set)
    for record, key, version in erased_keys(eraser.connection, fences, eraser.registry):
        found[record.name, version].add(key)
    erased: dict[str, int] = {}
    for (name, version), keys in found.items():
        record = eraser.registry[name]
        column = record.key[0]
        is_named = sql.SQL("r.{} = ANY ({}::{}[]) AND r.{} IS NULL AND NOT {} AND NOT {}").format(
            sql.Identifier(column),
            sorted(keys),
            sql.SQL(str(record.by_name[column].kind)),
            sql.Identifier(str(subject_of(record))),
            above_fence(record, version),
            erased_already(version),
        )
        rows = eraser.erase(record, is_named, version)
        if rows:
            erased[name] = erased.get(name, 0) + rows
    return erased


def _is_done(time: str | None, version: int) -> sql.Composable:
    return sql.SQL("false") if time else erased_already(version)


def _names(connection: Connection, query: sql.Composed) -> Iterator[list[str]]:
    with connection.cursor("penstock_names", withhold=True) as cursor:
        cursor.execute(query)
        rows = iter(cursor)
        while names := [str(name) for (name,) in islice(rows, NAMES)]:
            yield names
