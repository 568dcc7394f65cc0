"""Packages with record types of their own, made while a test runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from penstock_schemas import Registry
from penstock_schemas.record import Record
from penstock_schemas.registry import load_registry

__all__ = ["Shop", "registry_of"]


def registry_of(*records: type[Record]) -> Registry:
    """Penstock's own types and these."""
    return Registry([*load_registry(()).classes.values(), *records])


class Shop:
    """A package under way: its types change, its migrations stay."""

    def __init__(self, folder: Path, name: str = "shop") -> None:
        self.name = name
        self.locations = {name: folder / name}

    def declares(self, *records: type[Record]) -> Registry:
        """The registry once the package declares these types and no others."""
        self.owns(*records)
        return registry_of(*records)

    def owns(self, *records: type[Record]) -> None:
        """Let these types be declared by the package, whatever module they stand in."""
        for record in records:
            record.__record_type__ = replace(record.__record_type__, owner=self.name)

    @property
    def files(self) -> list[str]:
        """The text of its version files, by name."""
        (folder,) = self.locations.values()
        return [path.read_text() for path in sorted(folder.glob("*.py"))]
