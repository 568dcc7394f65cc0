"""`penstock schedule run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from penstock_worker.cli.by_hand import run_by_hand
from penstock_worker.cli.output import plain, print_json
from penstock_worker.cli.schedule.change import find_row
from penstock_worker.errors import BrokerAway, ConfigurationError
from penstock_worker.settings import Settings, load_settings

if TYPE_CHECKING:
    from penstock_worker.store.schedule import Row

__all__ = ["run"]


def run(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `penstock schedule list` shows it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run a row now, besides its schedule: a job in this process, another task by sending it."""
    from penstock_worker.maintenance.schedule.decide import JOB_TASKS
    from penstock_worker.store.queries import open_reader

    settings = load_settings()
    with open_reader(settings) as reader:
        row = find_row(reader, name)
    if row.task.startswith(JOB_TASKS):
        if not isinstance(row.arguments, dict):
            raise ConfigurationError(f"{name}: the arguments of a job are a JSON object")
        run_by_hand(row.task.removeprefix(JOB_TASKS), as_json=as_json, arguments=row.arguments)
        return
    _send(row, settings)
    if as_json:
        print_json({"name": row.name, "task": row.task, "state": "sent"})
    else:
        typer.echo(f"{plain(row.name)}: {plain(row.task)} is sent")


def _send(row: Row, settings: Settings) -> None:
    from penstock_worker.app import create_app
    from penstock_worker.maintenance.schedule.decide import trouble_of
    from penstock_worker.maintenance.schedule.sender import RunRefused, Sender

    app = create_app(settings)
    try:
        app.loader.import_default_modules()
    except ModuleNotFoundError as exc:
        raise ConfigurationError(f"PENSTOCK_TASKS: {exc}") from exc
    sender = Sender(app)
    if why := trouble_of(row, sender.knows):
        raise ConfigurationError(f"{row.name}: {why}")
    try:
        with sender.open() as send:
            send(row, None)
    except BrokerAway as exc:
        raise ConfigurationError(f"the broker cannot be reached: {exc}; check PENSTOCK_BROKER_URL") from exc
    except RunRefused as exc:
        raise ConfigurationError(f"the broker refuses it: {exc}") from exc
    except TypeError as exc:
        raise ConfigurationError(f"the arguments are not those of {row.task}: {exc}") from exc
