"""Events of erased people that could not be read, and would become dead letters: nothing of them is kept."""

from __future__ import annotations

from collections.abc import Iterable

from penstock_schemas.registry import Registry
from penstock_worker.ingest.decode import Refused
from penstock_worker.ingest.fence import FENCED
from penstock_worker.store.connection import Connection
from penstock_worker.store.privacy.fences import Fences
from penstock_worker.store.privacy.letters import erased_among, what_it_says

__all__ = ["refuse_unread"]


def refuse_unread(connection: Connection, refused: Iterable[Refused], fences: Fences, registry: Registry) -> None:
    """Give those the outcome of a refused event that name an erased person, or the key or the parent of an erased row."""
    singles = [part for part in refused if part.event_id is not None]
    said = [what_it_says(part.payload, registry) for part in singles]
    for part, is_erased in zip(singles, erased_among(connection, said, fences, registry), strict=True):
        if is_erased:
            part.verdict = FENCED
