"""Sending what dead processes left, by a producer that publishes nothing itself: for the command line and for beat."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from penstock_producers.producer import Producer
from penstock_producers.spool import folder
from penstock_producers.spool.listing import list_spools
from penstock_schemas.wire import QUEUE

__all__ = ["Drained", "drain"]


@dataclass(frozen=True, slots=True)
class Drained:
    """
    Args:
        sent: Events that are no longer in the folder: confirmed, and of journals stored or dead-lettered.
        left: Events of files that nobody owns.
        error: Why the last attempt to send failed, if it did.
    """

    sent: int
    left: int
    error: str | None


def drain(broker_url: str, root: Path | None, timeout_s: float, *, queue: str = QUEUE) -> Drained:
    """
    Adopt what nobody owns in a spool folder and send it.

    Harmless when it runs twice at once: a file is adopted by one of them.

    Args:
        broker_url: Of the files' destination; those of others are left alone.
        root: None takes the default folder.
        timeout_s: For all of it. What is not sent by then stays in the folder.
        queue: The queue of events.

    Raises:
        ValueError: The URL cannot be right.
    """
    deadline = time.monotonic() + timeout_s
    root = root or folder.default_folder()
    with Producer(broker_url, name="penstock-spool", queue=queue, spool_folder=root, exit_deadline_s=0) as producer:
        if producer.sync(timeout_s):
            producer.await_receipts(max(0.0, deadline - time.monotonic()))
        status = producer.status()
    # Counted in the files, after all of them were given back.
    destination = folder.destination_of(folder.address_of(broker_url, queue))
    left = sum(seen.events or 0 for seen in list_spools(root, destination) if seen.state == "orphan")
    return Drained(max(0, status.adopted - left), left, status.last_error if left else None)
