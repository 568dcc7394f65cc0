"""`penstock dead-letters list`: the events that are not in their tables, and why."""

from __future__ import annotations

import enum
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from penstock_worker.cli.output import plain, print_json
from penstock_worker.settings import load_settings

if TYPE_CHECKING:
    from penstock_worker.store.queries import LetterGroup

__all__ = ["register"]


class State(enum.StrEnum):
    """`dead` can never be stored as it is, `held` cannot be stored now."""

    DEAD = "dead"
    HELD = "held"


def register(app: typer.Typer) -> None:
    """Add the command group."""
    letters = typer.Typer(no_args_is_help=True, help="Events that could not be stored.")
    letters.callback()(lambda: None)  # keeps `list` a word of its own while it is the only command
    letters.command("list")(list_dead_letters)
    app.add_typer(letters, name="dead-letters")


def list_dead_letters(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    state: Annotated[State | None, typer.Option(help="Only these; all by default.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="How many single letters, the newest ones.")] = 20,
) -> None:
    """List dead letters: grouped by what they have in common, then the newest ones."""
    from penstock_worker.store import queries

    with queries.open_reader(load_settings()) as reader:
        groups = queries.list_groups(reader, state)
        letters = queries.list_letters(reader, state, limit)
    if as_json:
        print_json({"groups": [asdict(group) for group in groups], "letters": letters})
    else:
        _show(groups, letters, Console())


def _show(groups: list[LetterGroup], letters: list[dict[str, Any]], console: Console) -> None:
    if not groups:
        console.print("no dead letters")
        return
    summary = Table("letters", "state", "type", "reason", "producer", "last", "for example", title="by fingerprint")
    for group in groups:
        cells = [group.state, group.type, group.reason, group.producer, f"{group.last_at:%F %T}", group.detail]
        summary.add_row(f"{group.letters:,}", *map(plain, cells))
    console.print(summary)
    single = Table("at", "id", "state", "type", "reason", "detail", title="the newest")
    for letter in letters:
        cells = [letter[name] for name in ("id", "state", "type", "reason", "detail")]
        single.add_row(f"{letter['at']:%F %T}", *map(plain, cells))
    console.print(single)
