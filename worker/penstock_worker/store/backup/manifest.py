"""The manifest: what a backup holds, and what a database restored from it must hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from penstock_worker.errors import ConfigurationError
from penstock_worker.store.backup.header import Header
from penstock_worker.store.backup.sums import TableSum

__all__ = ["Manifest", "Versions", "differences", "parse_manifest"]


@dataclass(frozen=True, slots=True)
class Versions:
    """What made the backup; `migrations` are the revisions by version table."""

    penstock: str
    postgresql: str
    pg_dump: int
    migrations: dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Manifest:
    """
    The inside of a backup.

    Args:
        backup_id: The header's, so that a header of another backup is found out; so is `timestamp`.
        owners: Roles that own something.
        grantees: Roles that were granted something.
        tables: By `schema.table`, partitions each for itself.
    """

    backup_id: str
    timestamp: str
    database: str
    versions: Versions
    owners: list[str]
    grantees: list[str]
    tables: dict[str, TableSum]

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables.values())

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"


def parse_manifest(text: bytes, header: Header) -> Manifest:
    """
    The manifest of a backup whose files are what was written.

    Raises:
        ConfigurationError: It belongs to another header, or is of another version of Penstock.
    """
    try:
        value = json.loads(text)
        value["versions"] = Versions(**value["versions"])
        value["tables"] = {name: TableSum(**table) for name, table in value["tables"].items()}
        manifest = Manifest(**value)
    except (ValueError, TypeError, KeyError) as exc:
        raise ConfigurationError(f"the manifest of {header.backup_id} cannot be read by this Penstock: {exc}") from exc
    if (manifest.backup_id, manifest.timestamp) != (header.backup_id, header.timestamp.isoformat()):
        raise ConfigurationError(f"the header of {header.backup_id} and its manifest are of different backups")
    return manifest


def differences(expected: Mapping[str, TableSum], found: Mapping[str, TableSum]) -> list[str]:
    """What a restored database has that the backup had not, and the other way round, a line each."""
    problems = []
    for name in sorted(expected.keys() | found.keys()):
        before, after = expected.get(name), found.get(name)
        if after is None:
            problems.append(f"{name} was not restored")
        elif before is None:
            problems.append(f"{name} is not in the manifest")
        elif before.rows != after.rows:
            problems.append(f"{name} has {after.rows:,} rows instead of {before.rows:,}")
        elif before.checksum != after.checksum:
            problems.append(f"{name} has other content in its {after.rows:,} rows")
    return problems
