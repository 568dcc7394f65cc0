"""Fences over a restore: an older backup brings back neither the people who were erased since, nor lets their events in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from penstock_schemas.registry import Registry
from penstock_worker.settings import Settings
from penstock_worker.store.connection import Connection

__all__ = ["Carried", "carry_fences", "reapply"]


@dataclass(frozen=True, slots=True)
class Carried:
    """What a restore must not undo: keys, fences as (HMAC, version, since when), and the log of erasures and exports."""

    generation: int
    keys: list[tuple[bytes, datetime]]
    fences: list[tuple[bytes, int, datetime]]
    log: list[tuple[Any, ...]]


def carry_fences(connection: Connection) -> Carried:
    """
    Read what is to be put back after a restore; nothing where there are no such tables yet.

    Args:
        connection: Any, to the database before it is restored.
    """
    raise NotImplementedError


def reapply(connection: Connection, registry: Registry, carried: Carried, settings: Settings) -> dict[str, Any]:
    """
    Put the fences back after a restore, and erase anew whom they are about.

    Args:
        connection: In autocommit, to the restored database, migrated.
        registry: Of the record types.
        carried: From before.
        settings: Its time limits.

    Returns:
        Counts: fences, people, rows by type, letters.
    """
    raise NotImplementedError
