"""
What of erased people would become dead letters: events that could not be read, or not be written. Nothing of them is kept.

A letter of a whole message stays, for it has other people's events too; those of erased people are emptied in it.
"""

from __future__ import annotations

from penstock_schemas.registry import Registry
from penstock_worker.ingest.account import letters_of
from penstock_worker.ingest.decode import Decoded, Refused
from penstock_worker.ingest.fence import FENCED
from penstock_worker.store.connection import Connection
from penstock_worker.store.privacy.fences import Fences
from penstock_worker.store.privacy.letters import empty_erased, erased_among, what_it_says

__all__ = ["refuse_unread"]


def refuse_unread(connection: Connection, decoded: Decoded, fences: Fences, registry: Registry) -> None:
    """Give those the outcome of a refused event that name an erased person, or the key or the parent of an erased row."""
    lettered = letters_of(decoded)
    singles = [found for found in lettered if found.letter.event_id is not None]
    said = [what_it_says(letter.payload, registry) for letter, _ in singles]
    for (_, subject), is_erased in zip(singles, erased_among(connection, said, fences, registry), strict=True):
        if not is_erased:
            continue
        if isinstance(subject, Refused):
            subject.verdict = FENCED
        else:
            subject.end(FENCED)
    for letter, subject in lettered:
        if letter.event_id is None and isinstance(subject, Refused):
            subject.payload = empty_erased(connection, letter, fences, registry)
