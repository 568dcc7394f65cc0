"""`penstock migrate`: the tables of Penstock and of packages with record types of their own."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from penstock_migrations.run import State
    from penstock_schemas.registry import Registry

__all__ = ["register"]

Package = Annotated[str | None, typer.Option("--package", help="Whose; the only one beside Penstock's own by default.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    group = typer.Typer(no_args_is_help=True, help="Bring the database's tables up to date, or back.")
    for command in (up, down, create, status):
        group.command()(command)
    # A negative number is no option.
    group.command(context_settings={"ignore_unknown_options": True})(steps)
    app.add_typer(group, name="migrate")


def up(
    *,
    hands_over: bool = typer.Option(
        False, "--roles", help="Make the role penstock_admin the owner of all tables, for good: its members keep house."
    ),
) -> None:
    """Apply every migration there is: Penstock's first, then each package's after those it depends on."""
    from penstock_migrations.run import lacking_roles, states, upgrade

    url, registry, locations = _context()
    found = states(url, registry, locations)
    if any(state.is_further for state in found) and all(state.is_current for state in found):
        # Back at an older release: what a newer one has made stays, the rights that it laid down too.
        for state in found:
            _say(state)
        return
    applied = upgrade(url, registry, locations, hands_over=hands_over)
    for revision in applied:
        typer.echo(f"applied {revision}")
    if not applied:
        typer.echo("the database is up to date")
    if lacking := lacking_roles(url):
        typer.echo(lacking, err=True)


def down(
    to: Annotated[str, typer.Option("--to", help="A revision, or `base` for none at all.")] = "-1",
    package: Package = None,
) -> None:
    """Undo the last migration of a package; tables that it made are dropped with what is in them."""
    from penstock_migrations.run import downgrade

    url, registry, locations = _context()
    _say(downgrade(url, registry, _package(package, registry, locations), to, locations))


def steps(
    count: Annotated[int, typer.Argument(help="How many; negative ones go down.")],
    package: Package = None,
) -> None:
    """Go some migrations of a package up or down."""
    from penstock_migrations.run import steps as go

    url, registry, locations = _context()
    _say(go(url, registry, _package(package, registry, locations), count, locations))


def create(
    message: Annotated[str, typer.Option("--message", "-m", help="What changes, in a few words.")],
    package: Package = None,
    *,
    is_contracting: Annotated[
        bool, typer.Option("--contract", help="Drop what is no longer declared; the workers that knew it must be gone.")
    ] = False,
) -> None:
    """Write the migration that the record types ask for; none if nothing has changed."""
    from penstock_migrations.run import create as write

    url, registry, locations = _context()
    name = _package(package, registry, locations)
    created = write(url, registry, name, message, locations, is_contracting=is_contracting)
    typer.echo(f"wrote {created.path}" if created.path else f"nothing has changed in {name}: no migration was written")
    for what in created.kept:
        typer.echo(f"{what} is no longer declared: drop it with --contract, one release after the workers that write it")


def status(*, as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> None:
    """Say how far each package's migrations are."""
    from penstock_migrations.run import states

    url, registry, locations = _context()
    found = states(url, registry, locations)
    if as_json:
        typer.echo(json.dumps({state.package: asdict(state) for state in found}))
        return
    for state in found:
        _say(state)


def _context() -> tuple[str, Registry, dict[str, Path]]:
    from penstock_migrations.packages import parse_locations
    from penstock_worker.settings import load_settings
    from penstock_worker.store.retention.policy import registry_for

    settings = load_settings()
    return settings.database, registry_for(settings), parse_locations(settings.migrations)


def _package(name: str | None, registry: Registry, locations: dict[str, Path]) -> str:
    from penstock_migrations.run import default_package

    return name or default_package(registry, locations)


def _say(state: State) -> None:
    left = f"to apply: {', '.join(state.pending)}" if state.pending else "up to date"
    if state.is_further:
        left = "further than this release, which leaves it as it is"
    typer.echo(f"{state.package}: at {state.current or 'nothing'}, {left}")
