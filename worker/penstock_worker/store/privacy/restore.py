"""Fences over a restore: an older backup brings back neither the people who were erased since, nor lets their events in."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

import psycopg
from psycopg.types.json import Jsonb

from penstock_schemas.registry import Registry
from penstock_worker.settings import Settings
from penstock_worker.store.connection import Connection
from penstock_worker.store.privacy.erase import alone, erase_fenced
from penstock_worker.store.privacy.fences import add_generation
from penstock_worker.store.privacy.tombstones import Eraser

__all__ = ["Carried", "carry_fences", "reapply"]

_LOG = "action, subject, who, why, started_at, ended_at, report"


@dataclass(frozen=True, slots=True)
class Carried:
    """What a restore must not undo: keys, fences as (HMAC, version, since when), and the log of erasures and exports."""

    generation: int = 0
    keys: list[tuple[bytes, datetime]] = field(default_factory=list)
    fences: list[tuple[bytes, int, datetime]] = field(default_factory=list)
    log: list[tuple[Any, ...]] = field(default_factory=list)


def carry_fences(connection: Connection) -> Carried:
    """
    Read what is to be put back after a restore; nothing where there are no such tables yet.

    Args:
        connection: Any, to the database before it is restored.
    """
    try:
        with connection.transaction():
            keys = connection.execute("SELECT key, at, generation FROM penstock.fence_key").fetchall()
            fences = connection.execute("SELECT subject, version, at FROM penstock.fences").fetchall()
            log = connection.execute(f"SELECT {_LOG} FROM penstock.privacy_log ORDER BY id").fetchall()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return Carried()
    return Carried(
        max((int(str(generation)) for *_, generation in keys), default=0),
        [cast("tuple[bytes, datetime]", key[:2]) for key in keys],
        [cast("tuple[bytes, int, datetime]", fence) for fence in fences],
        list(log),
    )


def reapply(connection: Connection, registry: Registry, carried: Carried, settings: Settings) -> dict[str, Any]:
    """
    Put the fences back after a restore, and erase anew whom they are about; safe to run twice.

    Args:
        connection: In autocommit, to the restored database, migrated.
        registry: Of the record types.
        carried: From before.
        settings: Its time limits.

    Returns:
        `fences` that are in force, and the rows that were `erased`, by type.

    Raises:
        ConfigurationError: An erasure is under way there, or a batch does not end.
    """
    _put_back(connection, carried)
    connection.execute("SET statement_timeout = 0")
    row = connection.execute("SELECT count(*) FROM penstock.fences").fetchone()
    fences = int(str(row[0])) if row else 0
    if not fences:
        return {"fences": 0, "erased": {}}
    with alone(connection):
        return {"fences": fences, "erased": erase_fenced(Eraser(connection, registry), settings)}


def _put_back(connection: Connection, carried: Carried) -> None:
    with connection.transaction():
        connection.execute("LOCK TABLE penstock.fence_key IN SHARE ROW EXCLUSIVE MODE")
        known = {cast("bytes", key) for (key,) in connection.execute("SELECT key FROM penstock.fence_key")}
        for key, at in carried.keys:
            if key not in known:
                connection.execute("INSERT INTO penstock.fence_key (key, generation, at) VALUES (%s, 0, %s)", [key, at])
        # Above that of either database: whoever knows the fences of one of them reads them anew.
        generation = add_generation(connection, carried.generation)
        connection.execute("UPDATE penstock.fences SET generation = %s", [generation])
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO penstock.fences AS f (subject, version, generation, at) VALUES (%s, %s, %s, %s)"
                " ON CONFLICT (subject) DO UPDATE SET version = GREATEST(f.version, excluded.version),"
                " generation = excluded.generation, at = GREATEST(f.at, excluded.at)",
                [(subject, version, generation, at) for subject, version, at in carried.fences],
            )
            cursor.executemany(
                f"INSERT INTO penstock.privacy_log ({_LOG}) SELECT %s, %s, %s, %s, %s::timestamptz, %s, %s"
                " WHERE NOT EXISTS (SELECT FROM penstock.privacy_log WHERE action = %s AND subject = %s AND started_at = %s)",
                [
                    (*entry[:6], None if entry[6] is None else Jsonb(entry[6]), entry[0], entry[1], entry[4])
                    for entry in carried.log
                ],
            )
