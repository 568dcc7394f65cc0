"""`penstock backup-key`: a pair of keys, to encrypt backups with and to open them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("backup-key")(backup_key)


def backup_key(
    path: Annotated[Path, typer.Argument(help="Where the secret key goes; the public one goes beside it, with .pub.")],
) -> None:
    """
    Make a pair of keys for encrypted backups, in the format of age.

    The public key encrypts and may lie anywhere. The secret key opens: without it the backups are lost, so keep a copy of it in
    a place of its own, and not on the machine that makes the backups.
    """
    from penstock_worker.store.backup.seal import make_key

    public = make_key(path, datetime.now(UTC))
    typer.echo(f"secret key: {path} (keep it, and a copy elsewhere: without it backups cannot be opened)")
    typer.echo(f"public key: {public} (for `penstock backup --key-file`, or PENSTOCK_BACKUP_KEY_FILE)")
