"""`penstock.privacy_log`: who erased or exported whom, why, and what came of it. The person stands there as an HMAC only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from psycopg.types.json import Jsonb

from penstock_worker.store.connection import Connection
from penstock_worker.store.privacy.fences import own_digest

__all__ = ["Request", "begin_entry", "end_entry"]


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks for: `who` is the name of whoever does, `why` what they give as the reason."""

    person: str
    who: str
    why: str


def begin_entry(connection: Connection, action: Literal["erase", "export"], request: Request) -> int:
    """Note that it begins; commits. The number of the entry."""
    row = connection.execute(
        "INSERT INTO penstock.privacy_log (action, subject, who, why) VALUES (%s, %s, %s, %s) RETURNING id",
        [action, own_digest(connection, request.person), request.who, request.why],
    ).fetchone()
    assert row is not None  # RETURNING gives a row
    return int(str(row[0]))


def end_entry(connection: Connection, entry: int, report: Mapping[str, Any]) -> None:
    """Note that it is done, and what came of it: nothing personal."""
    connection.execute(
        "UPDATE penstock.privacy_log SET ended_at = now(), report = %s WHERE id = %s", [Jsonb(dict(report)), entry]
    )
