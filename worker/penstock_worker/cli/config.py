"""`penstock config show | check`: what is set and where from, and whether what it leads to can be reached."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from penstock_producers import environment
from penstock_worker.cli.output import plain, print_json
from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import Settings, load_settings, variable_of

__all__ = ["register"]

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_EXIT_UNREACHABLE = 1
_HIDDEN = "***"
#: Characters of a value that are shown at most; `--json` has all of them.
_LONGEST = 400

_app = typer.Typer(no_args_is_help=True, help="What is set and where from, without secrets; whether it can be reached.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(_app, name="config")


@dataclass(frozen=True, slots=True)
class Shown:
    """
    One setting.

    Args:
        variable: How it is set.
        value: As JSON has it, secrets hidden.
        origin: "environment", "file", "running stack" or "default".
        file: Which one.
    """

    variable: str
    value: Any
    origin: str
    file: str | None


@_app.command("show")
def show(
    is_set: Annotated[bool, typer.Option("--set", help="Leave out what has its default.")] = False,
    as_json: _Json = False,
) -> None:
    """Show every setting, its value and where it comes from. Secrets are hidden, in URLs too."""
    shown = [one for one in _describe(load_settings()) if not is_set or one.origin != "default"]
    if as_json:
        print_json({"settings": [asdict(one) for one in shown]})
        return
    table = Table(box=None, header_style="bold")
    for name in ("setting", "value", "from"):
        table.add_column(name, overflow="fold", no_wrap=name == "setting")
    for one in shown:
        table.add_row(one.variable, plain(_as_words(one.value), _LONGEST), plain(f"{one.origin} {one.file or ''}".strip()))
    Console().print(table)


@_app.command("check")
def check(as_json: _Json = False) -> None:
    """Connect to broker and database once, and say what is wrong. Exit code 1 if one cannot be used."""
    from penstock_worker.stack.checks import check_broker, check_database

    settings = load_settings()
    found = {
        "broker": _trouble(lambda: check_broker(settings.broker, settings.connect_timeout_s)),
        "database": _trouble(lambda: check_database(settings.database, settings.connect_timeout_s)),
    }
    if as_json:
        print_json({name: {"is_usable": trouble is None, "trouble": trouble} for name, trouble in found.items()})
    else:
        for name, trouble in found.items():
            typer.echo(f"{name}: {trouble or 'can be used'}")
    if any(found.values()):
        raise typer.Exit(_EXIT_UNREACHABLE)


def _trouble(connect: Callable[[], None]) -> str | None:
    try:
        connect()
    except ConfigurationError as exc:
        return str(exc)
    return None


def _describe(settings: Settings) -> list[Shown]:
    values = settings.describe()
    return [_shown(name, values[name], getattr(settings, name)) for name in Settings.model_fields]


def _shown(name: str, described: Any, value: Any) -> Shown:
    variable = variable_of(name)
    file = environment.file_of(variable, os.environ)
    if os.environ.get(variable):
        origin = "environment"
    elif file is not None:
        origin = "file"
    elif value != Settings.model_fields[name].default:
        origin = "running stack"
    else:
        origin = "default"
    return Shown(variable, _HIDDEN if isinstance(value, SecretStr) else described, origin, str(file) if file else None)


def _as_words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return "" if value is None else str(value)
