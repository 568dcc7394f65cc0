"""`penstock recovery`: records that began and neither ended nor go on, and who resumes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Table

from penstock_schemas import load_registry
from penstock_worker.cli.by_hand import run_by_hand
from penstock_worker.cli.output import as_text, plain, print_json
from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import load_settings

if TYPE_CHECKING:
    from penstock_worker.store.connection import Connection
    from penstock_worker.store.recovery import Claim, Recovery, Restored

__all__ = ["register"]

#: A year: who needs longer had better renew.
_LONGEST_S = 31_536_000
#: Somebody else has it. 2 is a person's mistake, as with every command.
_EXIT_TAKEN = 1

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_Id = Annotated[int, typer.Argument(metavar="ID", help="The recovery's number, as `list` shows it.")]
_Token = Annotated[UUID | None, typer.Option("--claim", metavar="TOKEN", help="What `claim` printed.")]
_Force = Annotated[bool, typer.Option("--force", help="Whoever holds it.")]

_app = typer.Typer(no_args_is_help=True, help="Records that began and neither ended nor go on, and who resumes them.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(_app, name="recovery")


@_app.command("list")
def list_recoveries(
    type: Annotated[str | None, typer.Option(help="Only records of this type.")] = None,
    with_ended: Annotated[bool, typer.Option("--all", help="Also what is over.")] = False,
    after: Annotated[int, typer.Option(metavar="ID", help="Only those behind this one.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many at most.")] = 100,
    as_json: _Json = False,
) -> None:
    """List incomplete records, in the order in which they were found."""
    from penstock_worker.store.queries import open_reader
    from penstock_worker.store.recovery import find_incomplete
    from penstock_worker.store.recovery.rules import rules_of

    settings = load_settings()
    if type is not None and type not in (known := rules_of(load_registry(settings.records), settings.recovery)):
        raise ConfigurationError(f"{type!r} is no type with a lifecycle; there are {', '.join(known)}")
    with open_reader(settings) as reader:
        found = find_incomplete(reader, type=type, with_ended=with_ended, after=after, limit=limit)
    if as_json:
        print_json({"recoveries": [asdict(recovery) for recovery in found]})
    elif found:
        Console().print(_table(found))
        if len(found) == limit:
            typer.echo(f"and perhaps more: `--after {found[-1].id}`")
    else:
        typer.echo("nothing is incomplete" if not with_ended else "nothing was incomplete")


@_app.command("show")
def show(recovery: _Id, as_json: _Json = False) -> None:
    """Show everything about one recovery."""
    from penstock_worker.store.queries import open_reader
    from penstock_worker.store.recovery import get_recovery

    with open_reader(load_settings()) as reader:
        found = get_recovery(reader, recovery)
    _print(found, as_json=as_json)


@_app.command("claim")
def claim(
    recovery: _Id,
    by: Annotated[str, typer.Option(help="Who resumes it.")],
    for_s: Annotated[float, typer.Option("--for", min=1, max=_LONGEST_S, help="Seconds after which others may take it.")] = 300,
    token: _Token = None,
    as_json: _Json = False,
) -> None:
    """
    Take a recovery, or, with the claim's token, move its deadline.

    Exit code 1 if somebody else has it, or if it has ended.
    """
    from penstock_worker.store.recovery import claim as take
    from penstock_worker.store.recovery import get_recovery, renew

    with _writer() as connection:
        taken = take(connection, recovery, by=by, for_s=for_s) if token is None else None
        if taken is None and token is not None:
            with _refused():
                taken = renew(connection, recovery, token, for_s=for_s)
        if taken is None:
            _refuse(_why_not(get_recovery(connection, recovery)))
            return
    _print_claim(taken, as_json=as_json)


@_app.command("release")
def release(recovery: _Id, token: _Token = None, is_forced: _Force = False, as_json: _Json = False) -> None:
    """Give a claim back: the record is offered again at the next scan. Exit code 1 if it is not yours any more."""
    from penstock_worker.store.recovery import release as give_back

    _need(token, is_forced=is_forced)
    with _writer() as connection, _refused():
        found = give_back(connection, recovery, None if is_forced else token)
    _print(found, as_json=as_json)


@_app.command("resolve")
def resolve(
    recovery: _Id,
    token: _Token = None,
    outcome: Annotated[str, typer.Option("--as", metavar="OUTCOME", help="How it ended, in a word.")] = "resolved",
    by: Annotated[str, typer.Option(help="Who says so; usually who claimed it.")] = "",
    is_forced: _Force = False,
    as_json: _Json = False,
) -> None:
    """
    End a recovery: the record is looked after. If it stays silent, it is found again.

    What has ended by itself stays as it ended. Exit code 1 if the claim is not yours any more.
    """
    from penstock_worker.store.recovery import resolve as end

    _need(token, is_forced=is_forced)
    with _writer() as connection, _refused():
        found = end(connection, recovery, None if is_forced else token, outcome=outcome, by=by)
    _print(found, as_json=as_json)


@_app.command("restore")
def restore(
    words: Annotated[list[str], typer.Argument(metavar="ID | TYPE KEY...", help="A recovery's number, or a record's key.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object; it is all there is to print.")] = False,
) -> None:
    """Print a record with everything below it as one JSON object; it is written while it is read."""
    del as_json
    from penstock_worker.store.queries import open_reader
    from penstock_worker.store.recovery import get_recovery
    from penstock_worker.store.recovery import restore as read

    settings = load_settings()
    registry = load_registry(settings.records)
    with open_reader(settings) as reader:
        type, key = words[0], words[1:]
        if len(words) == 1 and words[0].isdecimal():
            found = get_recovery(reader, int(words[0]))
            type, key = found.type, found.key
        with read(reader, registry, type, key) as restored:
            _write(restored)


@_app.command("scan")
def scan(as_json: _Json = False) -> None:
    """Scan now, as beat does. Exit code 1 if another scan is under way."""
    run_by_hand("recovery", as_json=as_json)


@contextmanager
def _writer() -> Iterator[Connection]:
    from penstock_worker.store.connection import connect_with
    from penstock_worker.store.queries import explained

    with explained(), connect_with(load_settings())() as connection:
        yield connection


@contextmanager
def _refused() -> Iterator[None]:
    from penstock_worker.store.recovery import ClaimLost

    try:
        yield
    except ClaimLost as exc:
        _refuse(str(exc))


def _refuse(why: str) -> None:
    typer.echo(f"penstock: {why}", err=True)
    raise typer.Exit(_EXIT_TAKEN)


def _need(token: UUID | None, *, is_forced: bool) -> None:
    if token is None and not is_forced:
        raise ConfigurationError("give the --claim that you hold, or --force")


def _why_not(found: Recovery) -> str:
    if found.outcome is not None:
        return f"recovery {found.id} has ended: {found.outcome}"
    until = f" until {found.claimed_until:%F %T} UTC" if found.claimed_until else ""
    return f"recovery {found.id} is {found.claimed_by or 'somebody'}'s{until}"


def _table(found: list[Recovery]) -> Table:
    table = Table(box=None, header_style="bold")
    for heading in ("id", "type", "key", "state", "last activity", "offers", "who, how"):
        # What is copied into the next command must be whole, however narrow the terminal is.
        is_whole = heading in ("id", "key", "last activity")
        justify: Literal["left", "right"] = "right" if heading in ("id", "offers") else "left"
        table.add_column(heading, justify=justify, no_wrap=is_whole, overflow="fold")
    for recovery in found:
        who = recovery.outcome or (f"{recovery.claimed_by} until {recovery.claimed_until:%T}" if recovery.claimed_by else "")
        cells = [recovery.type, ", ".join(recovery.key), recovery.state or "-", f"{recovery.last_activity:%F %T}"]
        table.add_row(str(recovery.id), *map(plain, cells), str(recovery.offers), plain(who))
    return table


def _print(found: Recovery, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(found))
        return
    for name, value in asdict(found).items():
        if value is not None:
            typer.echo(f"{name:<14} {', '.join(value) if isinstance(value, list) else value}")


def _print_claim(taken: Claim, *, as_json: bool) -> None:
    if as_json:
        print_json({"claim": taken.token, **asdict(taken.recovery)})
    else:
        record = f"{taken.recovery.type} {', '.join(taken.recovery.key)}"
        typer.echo(f"{record} is yours until {taken.until:%F %T} UTC; --claim {taken.token}")


def _write(restored: Restored) -> None:
    """Piece by piece: a session may have more tasks than memory has room for."""
    typer.echo(f'{{"type": {_json(restored.type)}, "record": {_json(restored.record)}, "children": {{', nl=False)
    for place, (type, children) in enumerate(groupby(restored.children, itemgetter(0))):
        typer.echo(f"{', ' if place else ''}{_json(type)}: [", nl=False)
        for number, (_, row) in enumerate(children):
            typer.echo(f"{', ' if number else ''}{_json(row)}", nl=False)
        typer.echo("]", nl=False)
    typer.echo("}}")


def _json(value: Any) -> str:
    return json.dumps(value, default=as_text)
