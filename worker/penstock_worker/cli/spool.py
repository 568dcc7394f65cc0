"""
`penstock spool list | drain`: what producers of this machine hold on disk.

Needs the client's dependencies only, like `penstock publish`: it is for the machines of services.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from penstock_producers.spool.drain import drain
from penstock_producers.spool.folder import default_folder
from penstock_producers.spool.listing import list_spools
from penstock_schemas.wire import QUEUE
from penstock_worker.cli.output import plain, print_json
from penstock_worker.cli.publish import find_broker, read_setting
from penstock_worker.errors import ConfigurationError

__all__ = ["register"]

_Folder = Annotated[
    Path | None, typer.Option(help="The spool folder. Default: PENSTOCK_SPOOL_FOLDER, else ~/.local/state/penstock/spool.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

_app = typer.Typer(no_args_is_help=True, help="What producers of this machine hold on disk, and sending what killed ones left.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(_app, name="spool")


@_app.command("list")
def list_files(folder: _Folder = None, as_json: _Json = False) -> None:
    """List the files: whose they are, whether their owner lives, and how many events wait in each."""
    root = folder or default_folder()
    seen = list_spools(root)
    if as_json:
        print_json({"folder": root, "files": [asdict(file) for file in seen]})
        return
    if not seen:
        typer.echo(f"nothing is spooled in {root}")
        return
    table = Table(box=None, header_style="bold")
    for heading in ("producer", "owner", "durability", "destination", "file"):
        table.add_column(heading, overflow="fold")
    for heading in ("events", "bytes"):
        table.add_column(heading, justify="right")
    for file in seen:
        figures = ["?" if file.events is None else f"{file.events:,}", f"{file.size_bytes:,}"]
        cells = (file.producer, file.state, file.durability, file.destination, file.path.relative_to(root))
        table.add_row(*(plain(cell) for cell in cells), *figures)
    Console().print(table)


@_app.command("drain")
def drain_files(
    folder: _Folder = None,
    broker_url: Annotated[str | None, typer.Option(help="Default: PENSTOCK_BROKER_URL, else a running `penstock up`.")] = None,
    queue: Annotated[str | None, typer.Option(help="The queue of events. Default: PENSTOCK_QUEUE.")] = None,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for all of it.")] = 60.0,
    as_json: _Json = False,
) -> None:
    """
    Send what killed producers left for this broker and queue. Files of living ones are left alone: they send them.

    Every producer of the folder does the same by itself, and so does beat. Exit code 1 if anything is left.
    """
    try:
        done = drain(find_broker(broker_url), folder, timeout_s, queue=queue or read_setting("PENSTOCK_QUEUE") or QUEUE)
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from exc
    if as_json:
        print_json(asdict(done))
    else:
        reason = f" ({done.error})" if done.error else ""
        typer.echo(f"{done.sent:,} events sent, {done.left:,} left{plain(reason)}")
    if done.left:
        raise typer.Exit(1)
