"""The job that makes a backup of the database and removes those that have been kept long enough."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast, get_args

from psycopg.rows import dict_row

from penstock_worker.errors import ConfigurationError
from penstock_worker.maintenance.job import Work
from penstock_worker.settings import Settings
from penstock_worker.store.backup.describe import grantees, migrations, owners
from penstock_worker.store.backup.dump import Snapshot, dumping, snapshot_of
from penstock_worker.store.backup.header import DUMP_FILES, Format, Header, write_header
from penstock_worker.store.backup.manifest import Manifest, Versions
from penstock_worker.store.backup.programs import Programs, find_programs
from penstock_worker.store.backup.seal import read_recipients
from penstock_worker.store.backup.shelf import list_backups, new_backup, new_id, outdated, remove
from penstock_worker.store.backup.sums import TableSum, sum_tables
from penstock_worker.store.backup.writing import BackupWriter
from penstock_worker.store.connection import connect_with

__all__ = ["make_backup"]


def make_backup(work: Work) -> dict[str, Any]:
    """
    Make a backup, then remove what is older than `backup_keep_days`, but for the newest. Run twice, it makes two.

    Its arguments are `folder`, `format` (custom or plain) and `key_file`, each as the settings say by default. A dry run only
    tells what would be removed.

    Returns:
        `backup_id`, `size` in bytes, `timestamp`, its folder, tables and rows, and the ids of those that were removed.

    Raises:
        ConfigurationError: There is no pg_dump, or it failed; nothing is left of the backup.
    """
    settings = _with_arguments(work)
    if work.is_dry_run:
        found = list_backups(settings.backup_folder)
        return {"removed": [each.path.name for each in outdated(found, work.now, settings.backup_keep_days)]}
    recipients = read_recipients(settings.backup_key_file) if settings.backup_key_file else []
    programs = find_programs(work.connection.info.server_version // 10_000, settings.postgres_programs, url=settings.database)
    now = work.now.astimezone(UTC)
    backup_id = new_id(now)
    with new_backup(settings.backup_folder, backup_id) as draft:
        writer = BackupWriter(draft, recipients)
        manifest = _write(work, settings, programs, writer, backup_id)
        size = sum(file.size for file in writer.files.values())
        header = Header(backup_id, now, size, _format(work), bool(recipients), writer.files)
        write_header(draft, header)
    removed = _remove_outdated(settings, work)
    made = {"backup_id": backup_id, "size": size, "timestamp": now.isoformat()}
    about = {"folder": str(settings.backup_folder / backup_id), "tables": len(manifest.tables), "rows": manifest.rows}
    return {**made, **about, "removed": removed}


def _with_arguments(work: Work) -> Settings:
    given = {"backup_folder": work.arguments.get("folder"), "backup_key_file": work.arguments.get("key_file")}
    return work.settings.model_copy(update={name: Path(str(value)) for name, value in given.items() if value})


def _format(work: Work) -> Format:
    wanted = str(work.arguments.get("format") or "custom")
    if wanted not in get_args(Format):
        raise ConfigurationError(f"there is no format {wanted!r}; there are {', '.join(get_args(Format))}")
    return cast("Format", wanted)


def _write(work: Work, settings: Settings, programs: Programs, writer: BackupWriter, backup_id: str) -> Manifest:
    format = _format(work)
    with connect_with(settings)() as connection, snapshot_of(connection) as snapshot:
        steps = _Steps(work.progress)
        manifest = _manifest(work, snapshot, programs, backup_id, sum_tables(connection, steps.summed))
        with dumping(programs, settings.database, snapshot, format, steps.dumped) as output:
            writer.add_stream(DUMP_FILES[format], output)
        writer.add_text("schedule.json", json.dumps(_schedule(snapshot), indent=2, default=str) + "\n")
    writer.add_text("settings.json", json.dumps(settings.describe(), indent=2) + "\n")
    writer.add_text("manifest.json", manifest.to_json())
    return manifest


def _manifest(work: Work, snapshot: Snapshot, programs: Programs, backup_id: str, tables: dict[str, TableSum]) -> Manifest:
    connection = snapshot.connection
    server = connection.info.parameter_status("server_version") or "unknown"
    versions = Versions(version("penstock"), server, programs.major, migrations(connection))
    return Manifest(
        backup_id,
        work.now.astimezone(UTC).isoformat(),
        connection.info.dbname,
        versions,
        owners(connection),
        grantees(connection),
        tables,
    )


def _schedule(snapshot: Snapshot) -> list[dict[str, Any]]:
    with snapshot.connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute("SELECT * FROM penstock.schedule ORDER BY name").fetchall()


def _remove_outdated(settings: Settings, work: Work) -> list[str]:
    gone = outdated(list_backups(settings.backup_folder), work.now, settings.backup_keep_days)
    for each in gone:
        remove(each)
    return [each.path.name for each in gone]


class _Steps:
    """Progress in tables, each of which is summed and then dumped."""

    def __init__(self, progress: Callable[[int, int | None], None]) -> None:
        self._progress = progress
        self._done = self._tables = 0

    def summed(self, done: int, tables: int) -> None:
        self._done, self._tables = done, tables
        self._progress(done, 2 * tables)

    def dumped(self) -> None:
        self._done += 1
        self._progress(self._done, 2 * self._tables)
