"""`penstock backup`: a backup of the whole database, and the end of old ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock_worker.cli.by_hand import run_by_hand
from penstock_worker.cli.output import print_json

if TYPE_CHECKING:
    from penstock_worker.maintenance.job import Done

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("backup")(backup)


def backup(
    folder: Annotated[Path | None, typer.Option(help="Where backups lie. Default: PENSTOCK_BACKUP_FOLDER.")] = None,
    format: Annotated[
        str, typer.Option(help="`custom`, pg_dump's archive, or `plain`, gzipped SQL without owners and grants.")
    ] = "custom",
    key_file: Annotated[
        Path | None,
        typer.Option(help="Public keys to encrypt for; see `penstock backup-key`. Default: PENSTOCK_BACKUP_KEY_FILE."),
    ] = None,
    is_dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell which old backups would be removed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object: backup_id, size, timestamp.")] = False,
) -> None:
    """
    Back up the whole database into a folder of its own, then remove what is older than PENSTOCK_BACKUP_KEEP_DAYS.

    Beat does so every night. The newest backup is never removed.
    """
    arguments = {"folder": folder and str(folder), "format": format, "key_file": key_file and str(key_file)}
    if is_dry_run:
        run_by_hand("backup", is_dry_run=True, as_json=as_json, arguments=arguments)
    else:
        run_by_hand("backup", arguments=arguments, say=_print_json if as_json else _say)


def _print_json(done: Done) -> None:
    print_json({name: done.counts[name] for name in ("backup_id", "size", "timestamp")})


def _say(done: Done) -> None:
    made = done.counts
    typer.echo(
        f"backup {made['backup_id']}: {made['rows']:,} rows of {made['tables']:,} tables, {made['size']:,} bytes "
        f"in {made['folder']}, in {done.seconds:.1f} s"
    )
    for gone in made["removed"]:
        typer.echo(f"removed {gone}")
