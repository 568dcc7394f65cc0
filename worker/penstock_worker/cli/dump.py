"""`penstock dump`: a table as SQL, CSV or lines of JSON."""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, NoReturn

import typer

from penstock_schemas.registry import load_registry
from penstock_worker.cli.dead_letters.progress import progress
from penstock_worker.settings import load_settings

__all__ = ["register"]

#: What a shell says of a program whose reader has gone, as `head` does.
_EXIT_READER_GONE = 128 + 13


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("dump")(dump)


def dump(
    table: Annotated[str, typer.Argument(help="A record type (scheduler.job) or a table (scheduler.jobs, penstock.ledger).")],
    form: Annotated[Literal["sql", "csv", "ndjson"], typer.Option("--format", help="sql is a script for psql.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Where to; - is standard output.")] = "-",
    is_zipped: Annotated[bool, typer.Option("--gzip", help="Compress it.")] = False,
    has_all: Annotated[
        bool, typer.Option("--all", help="With hidden rows (tombstones, placeholders) and Penstock's own columns.")
    ] = False,
) -> None:
    """Write the rows of a table, as they are at one moment: those that readers see, and their own columns."""
    from penstock_worker.store import queries
    from penstock_worker.store.dump import dump_table, estimate_rows
    from penstock_worker.store.named_tables import find_table

    settings = load_settings()
    registry = load_registry(settings.records)
    named = find_table(registry, table)
    rows = 0
    try:
        with queries.open_reader(settings) as reader:
            total = estimate_rows(reader, named)
            with closing(dump_table(reader, registry, named, form, has_all=has_all)) as pieces:
                first = next(pieces)  # what can go wrong shows here, before there is a file
                with _opened(output, is_zipped=is_zipped) as stream, progress("rows", total) as tell:
                    for piece in chain([first], pieces):
                        stream.write(piece.text)
                        rows += piece.rows
                        tell(piece.rows)
    except BrokenPipeError:
        _leave()
    typer.echo(f"{rows:,} rows of {named.full_name} dumped", err=True)


@contextmanager
def _opened(output: str, *, is_zipped: bool) -> Iterator[BinaryIO]:
    """A file gets its name when it is whole."""
    if output == "-":
        with _zipped(sys.stdout.buffer, is_zipped=is_zipped) as stream:
            yield stream
        sys.stdout.buffer.flush()
        return
    path = Path(output)
    if path.exists() and not path.is_file():  # a device or a pipe, whose place a file would take: /dev/null, for everybody
        with path.open("wb") as file, _zipped(file, is_zipped=is_zipped) as stream:
            yield stream
        return
    path = path.resolve()  # a link stays one
    part = Path(f"{path}.part")
    try:
        with part.open("wb") as file, _zipped(file, is_zipped=is_zipped) as stream:
            yield stream
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _zipped(file: BinaryIO, *, is_zipped: bool) -> Iterator[BinaryIO]:
    if not is_zipped:
        yield file
        return
    with gzip.GzipFile(filename="", fileobj=file, mode="wb") as stream:
        yield stream  # type: ignore[misc]  # it writes bytes, which is all that is asked of it


def _leave() -> NoReturn:
    """Nobody reads any more, as after `| head`: end without a word, also of Python's, which flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(_EXIT_READER_GONE)
