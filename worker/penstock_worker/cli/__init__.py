"""
The command line: one module per command, and one place where an error becomes a line.

Only the command that was asked for is imported: a health check that runs every few seconds must not load all that the others
need. A command whose extra is not installed is there all the same, and says what to install.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Annotated

import typer

from penstock_worker.cli.explain import explain, missing_extra
from penstock_worker.cli.last_resort import LastResort

__all__ = ["app", "main"]  # `app` is made by __getattr__

#: In the order of the help page; a command `a-b` is in the module `a_b`.
_COMMANDS = (
    "up",
    "demo",
    "worker",
    "beat",
    "flower",
    "exporter",
    "migrate",
    "publish",
    "spool",
    "status",
    "health",
    "config",
    "flush",
    "audit",
    "trace",
    "dead-letters",
    "retention",
    "recovery",
    "export-person",
    "erase-person",
    "backup",
    "backups",
    "backup-key",
    "verify",
    "restore",
    "maintenance",
    "schedule",
    "dump",
    "vacuum",
    "disk",
    "import-sqlite",
)

#: What a shell calls the mistake of a person, and the end by Ctrl-C.
_EXIT_MISTAKE = 2
_EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command; an error that a person can act on is one line on stderr and exit code 2."""
    # Users' record types may lie in the folder they work in, as with Celery's own command.
    sys.path.append(os.getcwd())  # noqa: PTH109  # a string is wanted
    logging.lastResort = LastResort()
    try:
        _make_app(_asked_for(sys.argv[1:]))()
    except KeyboardInterrupt:
        sys.exit(_EXIT_INTERRUPTED)
    except Exception as exc:
        line = explain(exc)
        if line is None:
            raise
        print(f"penstock: {line}", file=sys.stderr)  # noqa: T201
        sys.exit(_EXIT_MISTAKE)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"penstock {version('penstock')}")
        raise typer.Exit


def _options(
    is_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Nothing: `--version` ends before a command."""


def _asked_for(words: Sequence[str]) -> Sequence[str]:
    """The command, or all of them where the words begin otherwise: with `--help`, or with a mistake."""
    return words[:1] if words and words[0] in _COMMANDS else _COMMANDS


def _make_app(commands: Sequence[str]) -> typer.Typer:
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="Write-behind persistence: events from Redis or RabbitMQ into PostgreSQL, in batches.",
    )
    app.callback()(_options)
    for command in commands:
        _register(app, command)
    return app


def _register(app: typer.Typer, command: str) -> None:
    try:
        module = import_module(f"penstock_worker.cli.{command.replace('-', '_')}")
    except ModuleNotFoundError as exc:
        if missing_extra(exc) is None:
            raise
        _register_stand_in(app, command, exc)
    else:
        module.register(app)


def _register_stand_in(app: typer.Typer, command: str, error: ModuleNotFoundError) -> None:
    """A command in place of one whose libraries are missing; it takes any arguments and says what to install."""

    def stand_in() -> None:
        raise error

    settings = {"allow_extra_args": True, "ignore_unknown_options": True}
    help_text = f"(not installed: {explain(error)})"
    app.command(command, context_settings=settings, help=help_text, add_help_option=True)(stand_in)


def __getattr__(name: str) -> typer.Typer:
    """`app`, with all commands, made when first asked for."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["app"] = app = _make_app(_COMMANDS)
    return app
