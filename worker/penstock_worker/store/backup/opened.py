"""A backup whose files are what was written and whose manifest can be read, ready to be loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock_worker.errors import ConfigurationError
from penstock_worker.store.backup.header import DUMP_FILES, Header
from penstock_worker.store.backup.load import load_dump
from penstock_worker.store.backup.manifest import Manifest, differences, parse_manifest
from penstock_worker.store.backup.programs import find_programs
from penstock_worker.store.backup.seal import open_bytes, read_identities
from penstock_worker.store.backup.sums import prepare_session, sum_tables
from penstock_worker.store.connection import Connection

__all__ = ["Opened", "open_backup"]

#: What is left out of an archive: who owned what, who was granted what.
_WITHOUT = {"owners": "--no-owner", "grantees": "--no-acl"}


@dataclass(frozen=True, slots=True)
class Opened:
    """See `open_backup`."""

    path: Path
    header: Header
    manifest: Manifest
    identities: Sequence[Any]

    def load(
        self,
        connection: Connection,
        url: str,
        *,
        programs_folder: Path | None,
        is_bare: bool = False,
        is_whole_or_nothing: bool = False,
    ) -> list[str]:
        """
        Load the dump into an empty database.

        Args:
            connection: To it.
            url: Its URL.
            programs_folder: See `find_programs`.
            is_bare: Leave owners and grants out in any case; otherwise only where this server lacks one of the roles.
            is_whole_or_nothing: See `load_dump`.

        Returns:
            What was left out though it was wanted: `owners`, `grantees`.

        Raises:
            ConfigurationError: It failed; one line.
        """
        major = connection.info.server_version // 10_000
        missing = [] if self.header.format == "plain" else self._missing_roles(connection)
        load_dump(
            find_programs(max(major, self.manifest.versions.pg_dump), programs_folder, url=url),
            url,
            self.path / self.header.name_of(DUMP_FILES[self.header.format]),
            self.header.format,
            server_major=major,
            identities=self.identities,
            options=[_WITHOUT[what] for what in (_WITHOUT if is_bare else missing)],
            is_whole_or_nothing=is_whole_or_nothing,
        )
        return missing

    def compare(self, connection: Connection, on_table: Callable[[int, int], None]) -> list[str]:
        """What a database that it was loaded into has differently from the manifest."""
        prepare_session(connection)
        found = sum_tables(connection, on_table)
        connection.execute("RESET ALL")
        return differences(self.manifest.tables, found)

    def _missing_roles(self, connection: Connection) -> list[str]:
        """An owner must be there and be ours to give things to, a grantee must be there."""
        asked = {"owners": "pg_has_role(current_user, oid, 'MEMBER')", "grantees": "true"}
        missing = []
        for what, condition in asked.items():
            names: list[str] = getattr(self.manifest, what)
            query = f"SELECT count(*) FROM pg_roles WHERE rolname = ANY (%s) AND {condition}"
            if connection.execute(query.encode(), [names]).fetchone() != (len(names),):
                missing.append(what)
        return missing


def open_backup(path: Path, header: Header, identity_file: Path | None) -> Opened:
    """
    Read the inside of a backup.

    Raises:
        ConfigurationError: It is encrypted and there is no key, or another.
    """
    if header.is_encrypted and identity_file is None:
        raise ConfigurationError(f"{header.backup_id} is encrypted: give its secret key with --identity-file")
    identities = read_identities(identity_file) if header.is_encrypted and identity_file else []
    data = (path / header.name_of("manifest.json")).read_bytes()
    manifest = parse_manifest(open_bytes(data, identities) if identities else data, header)
    return Opened(path, header, manifest, identities)
