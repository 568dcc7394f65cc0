"""`penstock restore`: a backup takes the database's place."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock_worker.cli.output import plain, print_json
from penstock_worker.cli.steps import steps
from penstock_worker.errors import BrokerAway, ConfigurationError
from penstock_worker.settings import Settings, load_settings

if TYPE_CHECKING:
    from penstock_worker.maintenance.restore import Restored, Target

__all__ = ["register"]

#: Tables that have rows in any database that Penstock has run in once.
_OWN_ROWS = ("penstock.maintenance_runs", "penstock.schedule", "penstock.table_sizes", "penstock.alembic_version")
_SHOWN = 5


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("restore")(restore)


def restore(
    backup: Annotated[str, typer.Argument(help="Its id, the path of its folder, or `latest`.")],
    folder: Annotated[Path | None, typer.Option(help="Where backups lie. Default: PENSTOCK_BACKUP_FOLDER.")] = None,
    identity_file: Annotated[Path | None, typer.Option(help="The secret key, where it is encrypted.")] = None,
    into: Annotated[str | None, typer.Option(help="Another database: postgresql://... Default: PENSTOCK_DATABASE_URL.")] = None,
    is_sure: Annotated[
        bool, typer.Option("--yes", "-y", help="Replace what is there, and disconnect who is connected.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """
    Restore a backup into the configured database. What the database has now is gone then.

    Until all of it is ready, compared and migrated, the database stays as it is; a failure changes nothing. People who were
    erased since the backup are erased again. Stop workers first: what they store while it runs is lost.
    """
    from penstock_worker.maintenance.restore import look_at_target, restore_backup
    from penstock_worker.store.backup.shelf import find_backup
    from penstock_worker.store.queries import explained
    from penstock_worker.store.retention.policy import registry_for

    settings = load_settings(**({"database_url": into} if into else {}))
    settings = settings.with_database(into) if into else settings
    path, header = find_backup(folder or settings.backup_folder, backup)
    with explained():
        target = look_at_target(settings.database)
    if not is_sure:
        _refuse_what_would_be_lost(target, [] if into else _workers(settings))
    with explained(), steps() as progress:
        restored = restore_backup(
            path, header, settings, registry_for(settings), identity_file=identity_file, progress=progress
        )
    if as_json:
        print_json(asdict(restored))
    else:
        _say(restored)


def _refuse_what_would_be_lost(target: Target, workers: list[str]) -> None:
    if workers:
        raise ConfigurationError(f"workers run ({plain(', '.join(workers))}): stop them first, or say --yes")
    if target.sessions:
        raise ConfigurationError(f"clients are connected to the database ({target.sessions}): stop them first, or say --yes")
    if lost := [name for name in target.tables_with_rows if not name.startswith(_OWN_ROWS)]:
        names = ", ".join([*lost[:_SHOWN], *(["..."] if len(lost) > _SHOWN else [])])
        raise ConfigurationError(f"{len(lost)} tables of the database have rows ({names}): say --yes to replace them")


def _workers(settings: Settings) -> list[str]:
    """Those that answer; one that is idle has no connection to the database, and opens one when something comes."""
    from penstock_worker.queue_look import workers_stats

    if settings.broker_url is None:
        return []
    try:
        return sorted(workers_stats(settings))
    except BrokerAway:
        # Without a broker nothing comes.
        return []


def _say(restored: Restored) -> None:
    how = "replaced what was there" if restored.replaced else "it was empty"
    what = f"{restored.rows:,} rows of {restored.tables:,} tables"
    typer.echo(f"restored {restored.backup_id} into {restored.database} ({how}): {what}, in {restored.seconds:.1f} s")
    if restored.migrated:
        typer.echo(f"migrated: {', '.join(restored.migrated)}")
    if restored.erased.get("fences"):
        rows = sum(restored.erased["erased"].values())
        typer.echo(f"erased people were erased again: {rows:,} rows that the backup had brought back")
    if restored.left_out:
        typer.echo(
            f"left out, for roles of the backup are missing here, or not yours to give to: {', '.join(restored.left_out)}"
        )
