"""`penstock verify`: whether a backup can be restored, by doing so beside the database."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from penstock_worker.cli.output import plain, print_json
from penstock_worker.cli.steps import steps
from penstock_worker.settings import load_settings

__all__ = ["register"]

_EXIT_NOT_GOOD = 1


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("verify")(verify)


def verify(
    backup: Annotated[str, typer.Argument(help="Its id, the path of its folder, or `latest`.")],
    folder: Annotated[Path | None, typer.Option(help="Where backups lie. Default: PENSTOCK_BACKUP_FOLDER.")] = None,
    identity_file: Annotated[Path | None, typer.Option(help="The secret key, where it is encrypted.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """
    Check a backup's files, restore it into a database of its own on the configured server, and compare every table.

    That database is dropped afterwards, and the configured one is not touched. Exit code 1 if the backup is not good.
    """
    from penstock_worker.maintenance.restore import verify_backup
    from penstock_worker.store.backup.shelf import find_backup
    from penstock_worker.store.queries import explained

    settings = load_settings()
    path, header = find_backup(folder or settings.backup_folder, backup)
    with explained(), steps() as progress:
        verified = verify_backup(path, header, settings, identity_file=identity_file, progress=progress)
    if as_json:
        print_json({**asdict(verified), "is_good": not verified.problems})
    elif not verified.problems:
        what = f"{verified.rows:,} rows of {verified.tables:,} tables are what was backed up"
        typer.echo(f"backup {verified.backup_id} is good: {what}, in {verified.seconds:.1f} s")
    for problem in verified.problems:
        typer.echo(f"penstock: backup {verified.backup_id} is not good: {plain(problem, limit=400)}", err=True)
    if verified.problems:
        raise typer.Exit(_EXIT_NOT_GOOD)
