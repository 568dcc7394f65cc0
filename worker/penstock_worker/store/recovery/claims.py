"""
Claims: who resumes a record. A claim is a lease with a deadline, so that two services never resume the same one.

Taking, renewing and ending it are each one UPDATE with a condition: of two that come at once, PostgreSQL lets one through.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from psycopg import sql
from psycopg.rows import class_row

from penstock_worker.errors import ConfigurationError, PenstockError
from penstock_worker.store.connection import Connection
from penstock_worker.store.recovery.recoveries import COLUMNS, Recovery, get_recovery

__all__ = ["Claim", "ClaimLost", "claim", "release", "renew", "resolve"]

#: Nobody holds it, or whoever did has let its time run out.
_IS_FREE = "(claimed_until IS NULL OR claimed_until <= coalesce(%(now)s, now()))"


class ClaimLost(PenstockError):  # noqa: N818  # what has become of it
    """Raised when a claim is somebody else's by now, or its recovery has ended; stop resuming the record."""


@dataclass(frozen=True, slots=True)
class Claim:
    """`token` is what its holder renews and resolves with; it is told to nobody else."""

    recovery: Recovery
    token: UUID

    @property
    def until(self) -> datetime:
        """Its deadline, by the database's clock."""
        assert self.recovery.claimed_until is not None, "a claim has a deadline"
        return self.recovery.claimed_until


def claim(connection: Connection, recovery: int, *, by: str, for_s: float, now: datetime | None = None) -> Claim | None:
    """
    Take a recovery, if nobody has it.

    Args:
        connection: In autocommit, or the caller commits before it begins to work.
        recovery: Its id.
        by: Who asks, for people.
        for_s: Seconds after which others may take it, unless it is renewed.
        now: What time it is; the database's clock by default.

    Returns:
        None where another one holds it, or where it has ended.

    Raises:
        ConfigurationError: There is no such recovery.
    """
    token = uuid4()
    taken = _update(
        connection,
        f"claimed_by = %(by)s, claim = %(token)s, claimed_until = coalesce(%(now)s, now()) + %(for)s"
        f" WHERE id = %(id)s AND ended_at IS NULL AND outcome IS NULL AND {_IS_FREE}",
        {"by": by, "token": token, "for": timedelta(seconds=for_s), "now": now, "id": recovery},
    )
    if taken is None:
        get_recovery(connection, recovery)
        return None
    return Claim(taken, token)


def renew(connection: Connection, recovery: int, token: UUID, *, for_s: float, now: datetime | None = None) -> Claim:
    """
    Move the deadline of a claim; also when it has passed, as long as nobody else took the recovery.

    Raises:
        ClaimLost: Somebody did, or it has ended.
    """
    renewed = _update(
        connection,
        "claimed_until = coalesce(%(now)s, now()) + %(for)s"
        " WHERE id = %(id)s AND claim = %(token)s AND ended_at IS NULL AND outcome IS NULL",
        {"token": token, "for": timedelta(seconds=for_s), "now": now, "id": recovery},
    )
    if renewed is None:
        raise _lost(get_recovery(connection, recovery))
    return Claim(renewed, token)


def release(connection: Connection, recovery: int, token: UUID | None, *, now: datetime | None = None) -> Recovery:
    """
    Give a claim back; the recovery is offered again at the next scan.

    Args:
        connection: As for `claim`.
        recovery: Its id.
        token: None takes it from whoever holds it.
        now: As for `claim`.

    Raises:
        ClaimLost: It is somebody else's, or it has ended.
    """
    released = _update(
        connection,
        "claimed_by = NULL, claim = NULL, claimed_until = NULL, next_offer_at = coalesce(%(now)s, now())"
        " WHERE id = %(id)s AND (%(token)s::uuid IS NULL OR claim = %(token)s) AND ended_at IS NULL AND outcome IS NULL",
        {"token": token, "now": now, "id": recovery},
    )
    if released is None:
        raise _lost(get_recovery(connection, recovery))
    return released


def resolve(
    connection: Connection,
    recovery: int,
    token: UUID | None,
    *,
    outcome: str = "resolved",
    by: str = "",
    now: datetime | None = None,
) -> Recovery:
    """
    End a recovery: the record is looked after. Where it stays silent it is found again after another `stale_after`.

    Args:
        connection: As for `claim`.
        recovery: Its id.
        token: Of the claim. None ends it whoever holds it.
        outcome: A word for people.
        by: Who says so; by default who holds the claim.
        now: As for `claim`.

    Returns:
        How it ended. A late event may have ended it before; that is no error, and the outcome is the first one's.

    Raises:
        ClaimLost: It is open and somebody else's.
        ConfigurationError: There is no such recovery, or the outcome is empty.
    """
    if not outcome.strip():
        raise ConfigurationError("say in a word how the recovery ended")
    resolved = _update(
        connection,
        "ended_at = coalesce(%(now)s, now()), outcome = %(outcome)s, ended_by = coalesce(nullif(%(by)s, ''), claimed_by, '')"
        " WHERE id = %(id)s AND (%(token)s::uuid IS NULL OR claim = %(token)s) AND ended_at IS NULL AND outcome IS NULL",
        {"outcome": outcome, "by": by, "token": token, "now": now, "id": recovery},
    )
    if resolved is not None:
        return resolved
    found = get_recovery(connection, recovery)
    if found.outcome is None:
        raise _lost(found)
    return found


def _update(connection: Connection, changes: str, parameters: dict[str, object]) -> Recovery | None:
    query = sql.SQL("UPDATE penstock.recoveries SET {} RETURNING {}").format(sql.SQL(changes), COLUMNS)
    with connection.cursor(row_factory=class_row(Recovery)) as cursor:
        return cursor.execute(query, parameters).fetchone()


def _lost(found: Recovery) -> ClaimLost:
    if found.outcome is not None:
        return ClaimLost(f"recovery {found.id} has ended: {found.outcome}")
    holder = f"it is {found.claimed_by}'s until {found.claimed_until:%F %T} UTC" if found.claimed_by else "nobody holds it"
    return ClaimLost(f"this is not the claim of recovery {found.id}: {holder}")
