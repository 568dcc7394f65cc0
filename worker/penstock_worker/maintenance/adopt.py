"""The job that sends what killed producers left in the spool folder of this machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from penstock_producers.spool import folder
from penstock_producers.spool.drain import drain
from penstock_producers.spool.listing import list_spools
from penstock_worker.settings import Settings

__all__ = ["adopt_spools"]


def adopt_spools(settings: Settings) -> dict[str, Any]:
    """
    Adopt orphan spool files and send them, for at most `adopt_time_limit_s`. What is left then is the next run's.

    Safe to run twice, also at once and beside producers of the folder: a file is adopted by one of them.
    """
    root = settings.spool_folder or folder.default_folder()
    destination = folder.destination_of(folder.address_of(settings.broker, settings.queue))
    # Usually there is nothing, and no connection is made.
    if not any(seen.state == "orphan" for seen in list_spools(root, destination)):
        return {"sent": 0, "left": 0}
    return asdict(drain(settings.broker, root, settings.adopt_time_limit_s, queue=settings.queue))
