"""`penstock dead-letters discard`."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Annotated

import typer

from penstock_worker.cli.dead_letters.options import until_now
from penstock_worker.cli.dead_letters.progress import progress
from penstock_worker.cli.output import print_json
from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import load_settings

if TYPE_CHECKING:
    from penstock_worker.store.letter_filter import LetterFilter

__all__ = ["discard_letters"]


def discard_letters(
    meant: LetterFilter,
    *,
    is_rehearsal: Annotated[bool, typer.Option("--dry-run", help="Tell how many, and delete none.")] = False,
    is_sure: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Delete letters for good; the ledger keeps their events as dead, discarded by hand."""
    from penstock_worker.letters.discard import discard
    from penstock_worker.store import queries
    from penstock_worker.store.connection import connect_with
    from penstock_worker.store.stored_letters import count_meant

    if meant.is_empty:
        raise ConfigurationError("say which letters: give a filter such as --reason or --id")
    with queries.explained(), connect_with(load_settings())() as connection:
        # Nobody has seen the letters that come while it is asked and deleted.
        meant = until_now(meant, connection)
        count = count_meant(connection, meant)
        discarded = 0
        if count and not is_rehearsal:
            if not is_sure:
                typer.confirm(f"Discard {count:,} dead letters for good?", abort=True, err=True)
            with progress("letters", count) as tell:
                discarded = discard(connection, meant, _who(), tell)
    if as_json:
        print_json({"dry_run": is_rehearsal, "meant": count, "discarded": discarded})
    elif is_rehearsal:
        typer.echo(f"{count:,} letters would be discarded, nothing was changed")
    else:
        typer.echo(f"{discarded:,} letters discarded")


def _who() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in containers
        return ""
