"""
Recovery: records that began and neither ended nor go on, such as the sessions of a service that was killed.

For services and the HTTP face: `find_incomplete`, `claim`, `renew`, `release`, `resolve`, `restore`. A service that hears of
an incomplete record claims it, restores it, goes on with it (what it publishes are ordinary events), and resolves the claim:

    taken = claim(connection, 17, by="translator-2", for_s=300)
    if taken is not None:
        with restore(connection, registry, taken.recovery.type, taken.recovery.key) as restored:
            ...
        resolve(connection, 17, taken.token)

The scan (`penstock_worker.maintenance.recovery`) uses the other modules, in this order: `rules` (when is a record stale),
`tree` (what hangs below it), `listening` and `held` (when silence means nothing), `late`, `interrupt`, `search`, `offers`.
"""

from __future__ import annotations

from penstock_worker.store.recovery.claims import Claim, ClaimLost, claim, release, renew, resolve
from penstock_worker.store.recovery.recoveries import Recovery, find_incomplete, find_recovery, get_recovery
from penstock_worker.store.recovery.restore import Restored, restore

__all__ = [
    "Claim",
    "ClaimLost",
    "Recovery",
    "Restored",
    "claim",
    "find_incomplete",
    "find_recovery",
    "get_recovery",
    "release",
    "renew",
    "resolve",
    "restore",
]
