"""`penstock dead-letters replay`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from penstock_worker.cli.dead_letters.options import until_now
from penstock_worker.cli.dead_letters.progress import progress
from penstock_worker.cli.output import plain, print_json
from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import Settings, load_settings

if TYPE_CHECKING:
    from penstock_worker.ingest.write import Writer
    from penstock_worker.letters.summary import Summary
    from penstock_worker.store.letter_filter import LetterFilter

__all__ = ["replay_letters"]

_EXIT_SOME_REMAIN = 1


def replay_letters(
    meant: LetterFilter,
    *,
    is_all: Annotated[bool, typer.Option("--all", help="Every letter there is; needed where no filter is given.")] = False,
    is_rehearsal: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would become of them, and change nothing.")
    ] = False,
    patch: Annotated[
        str | None, typer.Option(metavar="JSON", help="A JSON merge patch (RFC 7396) for the copies of the payloads.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="How many letters at most.")] = None,
    shown: Annotated[int, typer.Option("--show", min=0, help="How many single letters, and rows of a dry run, to show.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """
    Take letters back to where they were going: stored, or a letter still, with its new reason.

    Exit code 1 if some remain.
    """
    if meant.is_empty and not is_all:
        raise ConfigurationError("say which letters: give a filter such as --reason or --id, or --all")
    from penstock_worker.letters.replay import Replay
    from penstock_worker.store.stored_letters import count_meant, existing_letters

    changes = None if patch is None else _read_patch(patch)
    with _writer(load_settings()) as writer:
        # Letters that come while it runs, its own among them, are none of those that were asked for.
        meant = until_now(meant, writer.database.connection())
        count = count_meant(writer.database.connection(), meant)
        with progress("letters", min(count, limit or count)) as tell:
            summary = Replay(writer, changes, is_rehearsal, shown, tell).run(meant, limit)
        left = existing_letters(writer.database.connection(), summary.busy)
    if as_json:
        print_json(_as_json(summary, left, is_rehearsal=is_rehearsal))
    else:
        _show(summary, left, Console(), is_rehearsal=is_rehearsal)
    if summary.remaining or left:
        raise typer.Exit(_EXIT_SOME_REMAIN)


def _read_patch(text: str) -> dict[str, Any]:
    from penstock_worker.letters.patch import load_exact

    try:
        patch = load_exact(text)
    except ValueError as exc:
        raise ConfigurationError(f"--patch is not JSON: {exc}") from exc
    if not isinstance(patch, dict):
        raise ConfigurationError('--patch must be a JSON object, such as {"data": {"priority": 1}}')
    return patch


@contextmanager
def _writer(settings: Settings) -> Iterator[Writer]:
    from penstock_worker.ingest import failpoints
    from penstock_worker.ingest.write import Writer
    from penstock_worker.store import queries
    from penstock_worker.store.retention.policy import registry_for

    failpoints.configure(settings.failpoints)
    writer = Writer.of(settings, registry_for(settings))
    try:
        with queries.explained():
            yield writer
    finally:
        writer.database.close()


def _as_json(summary: Summary, left: int, *, is_rehearsal: bool) -> dict[str, Any]:
    return {
        "dry_run": is_rehearsal,
        "letters": summary.letters,
        "remaining": summary.remaining,
        "busy": left,
        "events": summary.outcomes,
        "groups": [asdict(group) for group in summary.groups.values()],
        "examples": [asdict(ending) for ending in summary.endings],
        "rows": [asdict(row) for row in summary.rows],
    }


def _show(summary: Summary, left: int, console: Console, *, is_rehearsal: bool) -> None:
    from penstock_worker.letters.export import visible

    if summary.groups:
        title = "what would become of them" if is_rehearsal else "what became of them"
        table = Table("letters", "fingerprint", "events by outcome", "letters left", "because", title=title)
        for group in summary.groups.values():
            because = f"{group.reason}: {group.detail}" if group.reason else ""
            cells = [group.fingerprint, _outcomes(group.outcomes), f"{group.remaining:,}", because]
            table.add_row(f"{group.letters:,}", *map(plain, cells))
        console.print(table)
    for row in summary.rows if is_rehearsal else ():
        typer.echo(
            visible(f"{row.type} {row.outcome} {_line(row.key)}\n  before {_line(row.before)}\n  after  {_line(row.after)}")
        )
    busy = f", {left:,} are in the hands of another replay" if left else ""
    would = "would be replayed, nothing was changed" if is_rehearsal else "replayed"
    events = f": {_outcomes(summary.outcomes)}" if summary.outcomes else ""
    typer.echo(f"{summary.letters:,} letters {would}{events}; {summary.remaining:,} letters remain{busy}")


def _outcomes(outcomes: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(outcomes.items()))


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
