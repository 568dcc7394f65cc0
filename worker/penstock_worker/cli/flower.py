"""`penstock flower`: the page that shows the pool, in the foreground."""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import Annotated

import typer

from penstock_worker.cli.replace import replace_by
from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import load_settings
from penstock_worker.stack.commands import flower_command
from penstock_worker.stack.flower_login import flower_login
from penstock_worker.stack.ports import LOOPBACK, is_port_free

__all__ = ["register"]

#: Flower's own.
_DEFAULT_PORT = 5555


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("flower")(flower)


def flower(
    address: Annotated[str, typer.Option(help="Where it listens; other than loopback needs PENSTOCK_FLOWER_LOGIN.")] = LOOPBACK,
    port: Annotated[int | None, typer.Option(min=1, max=65_535, help="PENSTOCK_FLOWER_PORT, else 5555.")] = None,
) -> None:
    """
    Run Flower, read-only and behind a login.

    Without PENSTOCK_FLOWER_LOGIN a password is made, and printed with the address.
    """
    # Asked here because Celery would only say that it does not know the command.
    import flower as _  # noqa: F401

    settings = load_settings()
    port = port or settings.flower_port or _DEFAULT_PORT
    login = flower_login(settings, os.environ)
    if login.is_made and not _is_loopback(address):
        raise ConfigurationError(f"Flower on {address} is for others too: set PENSTOCK_FLOWER_LOGIN=user:password")
    if not is_port_free(port, address):
        raise ConfigurationError(f"port {port} on {address} is busy or not this machine's: choose another with --port")
    # Flower logs its address itself; where all lines are JSON, only what nobody else knows is worth another one.
    if login.is_made or settings.log_format == "console":
        typer.echo(f"Flower: {login.url(address, port)}")
    os.environ |= login.environment
    replace_by(flower_command(settings, address, port), settings)


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
