"""`penstock dead-letters list` and `show`."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Table

from penstock_worker.cli.output import plain, print_json
from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import load_settings

if TYPE_CHECKING:
    from penstock_worker.store.letter_filter import LetterFilter
    from penstock_worker.store.queries import LetterGroup

__all__ = ["list_letters", "show_letter"]

#: Bytes of a payload that a person is shown; `--json` and `export` give all of it.
PAYLOAD_SHOWN = 64 * 1024
#: Groups that are listed: where a name differs with every letter, there are as many groups as letters.
GROUPS_SHOWN = 500


def list_letters(
    meant: LetterFilter,
    *,
    is_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    limit: Annotated[int, typer.Option(min=0, help="How many single letters, the newest ones.")] = 20,
) -> None:
    """List dead letters: grouped by what they have in common, the largest groups, then the newest letters."""
    from penstock_worker.store import queries

    with queries.open_reader(load_settings()) as reader:
        found = queries.list_groups(reader, meant, GROUPS_SHOWN + 1)
        letters = queries.list_letters(reader, meant, limit)
    groups, has_more = found[:GROUPS_SHOWN], len(found) > GROUPS_SHOWN
    if is_json:
        print_json({"groups": [asdict(group) for group in groups], "has_more_groups": has_more, "letters": letters})
    else:
        _show_list(groups, letters, Console(), has_more=has_more)


def _show_list(groups: list[LetterGroup], letters: list[dict[str, Any]], console: Console, *, has_more: bool) -> None:
    if not groups:
        console.print("no dead letters")
        return
    summary = Table(title="by fingerprint")
    for name in ("letters", "fingerprint", "state", "type", "reason", "producer", "last", "for example"):
        # What is copied into the next command must be whole, however narrow the terminal is.
        summary.add_column(name, no_wrap=name in ("letters", "fingerprint", "state"), overflow="fold")
    for group in groups:
        cells = [group.mark, group.state, group.type, group.reason, group.producer, f"{group.last_at:%F %T}", group.detail]
        summary.add_row(f"{group.letters:,}", *map(plain, cells))
    console.print(summary)
    if has_more:
        console.print(
            f"and smaller groups: these are the {len(groups)} largest; --reason, --type, --since and others show less"
        )
    for letter in letters:
        line = f"{letter['at']:%F %T} {letter['id']} {letter['state']} {letter['type'] or '-'} {letter['reason']}"
        console.print(plain(f"{line}: {letter['detail']}", limit=300), soft_wrap=True)


def show_letter(
    letter_id: Annotated[UUID, typer.Argument(metavar="ID", help="The letter's id, as `list` shows it.")],
    *,
    is_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show everything about one dead letter."""
    from penstock_worker.letters.export import as_json, pretty, visible
    from penstock_worker.store import queries
    from penstock_worker.store.stored_letters import find_letter

    with queries.open_reader(load_settings()) as reader:
        letter = find_letter(reader, letter_id)
    if letter is None:
        raise ConfigurationError(f"there is no dead letter {letter_id}: it may have been replayed or discarded")
    if is_json:
        print_json(as_json(letter))
        return
    for name, value in letter.items():
        if value is not None and name != "payload":
            text = json.dumps(value, ensure_ascii=False) if name == "headers" else str(value)
            typer.echo(f"{name:<16} {visible(text)}")
    payload: bytes = letter["payload"]
    typer.echo(f"{'payload':<16} {len(payload):,} bytes\n\n{pretty(_beginning(payload))}")
    if len(payload) > PAYLOAD_SHOWN:
        typer.echo(f"... and {len(payload) - PAYLOAD_SHOWN:,} bytes more; --json shows all")


def _beginning(payload: bytes) -> bytes:
    """Cut between two characters: half of one would make the whole a binary payload."""
    cut = payload[:PAYLOAD_SHOWN]
    if len(cut) == len(payload):
        return cut
    with suppress(UnicodeDecodeError):
        payload.decode()
        return cut.decode(errors="ignore").encode()
    return cut
