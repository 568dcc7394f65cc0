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
        left: Events of files that nobody owns, or that there was no time to read.
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
        last_error = producer.status().last_error
    # Counted in the files, after all of them were given back; but one that is still looked through is given back after that.
    status = producer.status()
    destination = folder.destination_of(folder.address_of(broker_url, queue))
    spools = list_spools(root, destination)
    unread = sum(seen.events or 0 for seen in spools if seen.path in status.adopting)
    given_back = sum(seen.events or 0 for seen in spools if seen.state == "orphan" and seen.path not in status.adopting)
    left = given_back + unread
    return Drained(max(0, status.adopted - given_back), left, last_error if left else None)
