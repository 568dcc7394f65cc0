"""
Waiting for batches that may have begun before something was committed, without stopping anybody.

Every batch holds a shared advisory lock until its transaction ends (`penstock.begin_batch()`), which nobody takes
otherwise: it is there to be seen. A lock that were taken to wait would keep all batches behind it waiting as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from penstock_worker.errors import ConfigurationError
from penstock_worker.store.connection import Connection

__all__ = ["wait_for_batches"]

#: As in `functions.sql`.
LOCK = 1885695590
#: Seconds between two looks.
_STEP_S = 0.02

_BATCHES = (
    "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'advisory' AND classid = %s AND objid = 0 AND objsubid = 2"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def wait_for_batches(connection: Connection, patience_s: float, sleep: Callable[[float], None] = time.sleep) -> None:
    """
    Wait until all batches have ended that are being written now; those that begin later see what is committed now.

    Args:
        connection: In autocommit.
        patience_s: Seconds after which a batch counts as stuck.
        sleep: Waits between two looks, in seconds.

    Raises:
        ConfigurationError: A batch does not end.
    """
    running = _batches(connection)
    deadline = time.monotonic() + patience_s
    while running:
        if time.monotonic() > deadline:
            raise ConfigurationError(
                f"a batch has been writing for more than {patience_s:g} s, so that what it writes could not be looked at: "
                "the person's events are refused already; run the command again to finish"
            )
        sleep(_STEP_S)
        running &= _batches(connection)


def _batches(connection: Connection) -> set[str]:
    return {str(found) for (found,) in connection.execute(_BATCHES, [LOCK])}
