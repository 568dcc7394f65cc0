"""`penstock erase-person`: everything about a person goes, what is still on its way is refused, and the proof is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from penstock_schemas.registry import load_registry
from penstock_worker.cli.dead_letters.progress import progress
from penstock_worker.cli.output import plain, print_json
from penstock_worker.errors import ConfigurationError, PersonOnHold
from penstock_worker.settings import load_settings

if TYPE_CHECKING:
    from penstock_worker.store.privacy.report import Proof

__all__ = ["Person", "Who", "Why", "check_request", "register"]

#: Something was kept, for it is on legal hold.
_EXIT_KEPT = 3

Person = Annotated[str, typer.Argument(metavar="ID", help="The person, as in the column that names the subject.")]
Who = Annotated[str, typer.Option("--who", help="Who asks for it: noted for good.")]
Why = Annotated[str, typer.Option("--why", help="The reason, such as a ticket: noted for good.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("erase-person")(erase_person)


def erase_person(
    person: Person,
    who: Who = "",
    why: Why = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    is_dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """
    Erase everything about a person, and refuse what is still on its way.

    Audit logs are kept, and so is what is on legal hold: then the exit code is 3.
    """
    from penstock_worker.store.connection import connect_with
    from penstock_worker.store.privacy.erase import erase_person as erase
    from penstock_worker.store.privacy.erase import plan_erasure
    from penstock_worker.store.privacy.log import Request
    from penstock_worker.store.queries import explained

    if not is_dry_run:
        check_request(person, who, why)
    settings = load_settings()
    registry = load_registry(settings.records)
    with explained(), connect_with(settings)() as connection:
        if is_dry_run:
            proof = plan_erasure(connection, registry, person)
        else:
            if not yes and not typer.confirm(f"Erase everything about {plain(person)}? Nothing brings it back", err=True):
                raise typer.Exit(1)
            try:
                with progress("rows erased", None) as tell:
                    proof = erase(connection, registry, settings, Request(person, who, why), tell)
            except PersonOnHold as exc:
                typer.echo(f"penstock: {exc}", err=True)
                raise typer.Exit(_EXIT_KEPT) from exc
    if as_json:
        print_json({**proof.as_json(), "is_dry_run": is_dry_run})
    else:
        _show(proof, is_dry_run=is_dry_run)
    if not proof.is_complete:
        raise typer.Exit(_EXIT_KEPT)


def check_request(person: str, who: str, why: str) -> None:
    """
    See that everything is said.

    Raises:
        ConfigurationError: Something is missing.
    """
    if not person.strip():
        raise ConfigurationError("the person's id is empty: give it as it stands in the tables")
    for option, value in (("--who", who), ("--why", why)):
        if not value.strip():
            raise ConfigurationError(f"{option} is missing: who asks for it and why is noted in penstock.privacy_log")


def _show(proof: Proof, *, is_dry_run: bool) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("table", "before", "after", ""):
        table.add_column(heading, justify="right" if heading in ("before", "after") else "left")
    silent = []
    for row in proof.tables:
        if row.before or row.after:
            table.add_row(row.table, f"{row.before:,}", "" if is_dry_run else f"{row.after:,}", row.why)
        else:
            silent.append(row.table)
    console = Console(width=140, soft_wrap=True)
    if table.row_count:
        console.print(table)
    console.print(f"nothing of the person in {len(silent)} other tables")
    for kept in proof.kept:
        reasons = "; ".join(f"hold {number}: {plain(why)}" for number, why in zip(kept.holds, kept.reasons, strict=True))
        console.print(f"{'on hold' if is_dry_run else 'kept'}: {kept.rows:,} of {kept.type} ({reasons})")
    if is_dry_run:
        console.print("dry run, nothing was changed")
    elif proof.is_complete:
        console.print("erased; events that are still on their way are refused")
    else:
        console.print(
            "the rest is erased, and events that are still on their way are refused; release the holds and run it again"
        )
