"""The files of a spool folder, as a person wants to see them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from penstock_producers.spool import folder
from penstock_producers.spool.file import SpoolCorrupt, SpoolFile, SpoolRefused, files_of

__all__ = ["SpoolSeen", "list_spools"]


@dataclass(frozen=True, slots=True)
class SpoolSeen:
    """
    Args:
        state: "alive" while its owner lives, "orphan" when the next producer will adopt it, "corrupt" when it was set aside.
        events: That wait in it; None when they cannot be counted.
        size_bytes: With what SQLite keeps beside it.
        destination: Broker and queue.
    """

    path: Path
    state: Literal["alive", "orphan", "corrupt"]
    epoch: str
    producer: str
    durability: str
    events: int | None
    size_bytes: int
    destination: str


def list_spools(root: Path, destination: str | None = None) -> list[SpoolSeen]:
    """
    Every file, oldest first.

    Args:
        root: The spool folder, of all destinations.
        destination: The name of one destination's folder; None for all.
    """
    pattern = f"{destination or '*'}/*{folder.SPOOL}"
    paths = sorted([*root.glob(pattern), *root.glob(pattern + folder.CORRUPT)], key=lambda path: path.name)
    return [seen for path in paths if (seen := _look(path)) is not None]


def _look(path: Path) -> SpoolSeen | None:
    is_corrupt = path.suffix == folder.CORRUPT
    meta: dict[str, Any] = {}
    events: int | None = None
    if not is_corrupt:
        with suppress(SpoolRefused, SpoolCorrupt):
            file = SpoolFile.look(path)
            try:
                meta, events = file.meta(), file.count()
            finally:
                file.close()
    size_bytes = sum(part.stat().st_size for part in files_of(path) if part.exists())
    if not path.exists():
        return None  # sent meanwhile
    return SpoolSeen(
        path=path,
        state="corrupt" if is_corrupt else "alive" if folder.is_owned(path) else "orphan",
        epoch=path.name.partition(".")[0],
        producer=str(meta.get("producer", "")),
        durability="journal" if meta.get("journal") else "spill" if meta else "",
        events=events,
        size_bytes=size_bytes,
        destination=str(meta.get("address", "")),
    )
