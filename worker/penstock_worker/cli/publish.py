"""
`penstock publish`: lines of JSON from a file or a pipe become events.

Needs the client's dependencies only, so it reads the few settings that it has by itself, not by `penstock_worker.settings`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from pydantic import AwareDatetime, TypeAdapter, ValidationError
from pydantic_core import from_json
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from penstock_producers import BufferFull, Producer, environment
from penstock_producers.broker_url import broker_url_from
from penstock_schemas import Record, Registry, load_registry
from penstock_schemas.wire import MAX_MESSAGE_BYTES, QUEUE
from penstock_worker.errors import ConfigurationError

__all__ = ["find_broker", "register"]

#: Longer than any record with its type around it. What is longer is read past, never into memory.
_MAX_LINE_BYTES = 2 * MAX_MESSAGE_BYTES
_STACK_FILE = Path(".penstock") / "stack.json"
_TIME: TypeAdapter[datetime] = TypeAdapter(AwareDatetime)


@dataclass(slots=True)
class Counts:
    """What `--json` prints. `undelivered` were read, but the broker did not confirm them."""

    published: int = 0
    bad: int = 0
    undelivered: int = 0


@dataclass(frozen=True, slots=True)
class Reader:
    """How a line becomes a record."""

    registry: Registry
    type: str | None
    occurred_at: str | None

    def read(self, line: bytes) -> tuple[Record, datetime | None]:
        """
        A line's record and the time it happened, if the line tells it.

        Raises:
            ValueError: The line is bad; the message says why.
        """
        try:
            value = from_json(line, allow_inf_nan=False)
        except ValueError as exc:
            raise ValueError(f"not JSON: {exc}") from exc
        name, data = self._split(value)
        if name not in self.registry.classes:
            raise ValueError(f"unknown type {name!r}")
        try:
            record = self.registry.classes[name].model_validate(data)
            return record, self._time(value, record)
        except ValidationError as exc:
            error = exc.errors()[0]
            where = ".".join(str(part) for part in error["loc"])
            raise ValueError(": ".join(part for part in (name, where, error["msg"]) if part)) from exc

    def _split(self, value: Any) -> tuple[str, Any]:
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")  # noqa: TRY004  # a bad line, not a mistake of ours
        if self.type is not None:
            return self.type, value
        if not isinstance(value.get("type"), str) or "data" not in value:
            raise ValueError('neither {"type": ..., "data": {...}} nor told by --type what it is')
        return value["type"], value["data"]

    def _time(self, value: dict[str, Any], record: Record) -> datetime | None:
        """The field may be one of the record's or, in a line that wraps the record, stand beside it."""
        if self.occurred_at is None:
            return None
        found = getattr(record, self.occurred_at, None) or value.get(self.occurred_at)
        if found is None:
            raise ValueError(f"no {self.occurred_at!r}, by which --occurred-at would date the event")
        return _TIME.validate_python(found)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("publish")(publish)


def publish(
    file: Annotated[str, typer.Argument(help="A file of JSON lines; - reads standard input.")] = "-",
    type_name: Annotated[str | None, typer.Option("--type", help="What every line is; else the lines say it.")] = None,
    occurred_at: Annotated[str | None, typer.Option(help="Field that tells when a line happened, for backfill.")] = None,
    broker_url: Annotated[str | None, typer.Option(help="Default: PENSTOCK_BROKER_URL, else a running `penstock up`.")] = None,
    records: Annotated[str | None, typer.Option(help="Modules with record types. Default: PENSTOCK_RECORDS.")] = None,
    queue: Annotated[str | None, typer.Option(help="The queue of events. Default: PENSTOCK_QUEUE.")] = None,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Seconds without an answer after which it gives up.")] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """
    Publish JSON lines: {"type": ..., "data": {...}}, or the data alone with --type.

    A bad line is reported with its number, the others go. Exit code 1 if there was one.
    """
    reader = Reader(_registry(records), type_name, occurred_at)
    if type_name is not None and type_name not in reader.registry.classes:
        raise ConfigurationError(f"--type {type_name}: unknown; there are {', '.join(reader.registry)}")
    counts = Counts()
    with _opened(file) as stream, _producer(broker_url, queue, timeout_s) as producer, _progress() as progress:
        error = _publish_lines(reader, stream, producer, progress, counts)
        if error is None and not _finish(producer, timeout_s):
            error = producer.status().last_error or "it does not answer"
        counts.undelivered = counts.published - producer.status().confirmed
        counts.published -= counts.undelivered
    if as_json:
        typer.echo(json.dumps(asdict(counts)))
    else:
        typer.echo(f"{counts.published:,} published, {counts.bad:,} bad")
    if error is not None:
        raise ConfigurationError(f"gave up, {counts.undelivered:,} events are not delivered: {error}")
    if counts.bad:
        raise typer.Exit(1)


def _publish_lines(reader: Reader, stream: BinaryIO, producer: Producer, progress: Progress, counts: Counts) -> str | None:
    """Publish every good line and report the others; why it ended early, if it did."""
    task = progress.add_task("publishing", total=_size(stream))
    for number, line, size in _lines(stream):
        progress.advance(task, size)
        try:
            if line is None:
                raise ValueError(f"longer than {_MAX_LINE_BYTES} bytes")  # noqa: TRY301  # bad like the others
            record, occurred_at = reader.read(line)
            producer.publish(record, occurred_at=occurred_at)
            counts.published += 1
        except BufferFull as exc:
            return producer.status().last_error or str(exc)
        except ValueError as exc:
            counts.bad += 1
            progress.console.print(f"line {number}: {exc}", markup=False, highlight=False, soft_wrap=True)
    return None


def _finish(producer: Producer, timeout_s: float) -> bool:
    """Wait while the broker takes something; not longer than `timeout_s` when it takes nothing."""
    confirmed = -1
    while (now_confirmed := producer.status().confirmed) != confirmed:
        confirmed = now_confirmed
        if producer.flush(timeout_s):
            return True
    return False


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | None, int]]:
    """Number, text (None when it is too long) and size of every line that is not empty."""
    number = 0
    while chunk := stream.readline(_MAX_LINE_BYTES):
        number += 1
        size = len(chunk)
        line: bytes | None = chunk
        while not chunk.endswith(b"\n") and len(chunk) == _MAX_LINE_BYTES:
            line = None
            chunk = stream.readline(_MAX_LINE_BYTES)
            size += len(chunk)
        if line is None or line.strip():
            yield number, line, size


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        yield sys.stdin.buffer
        return
    try:
        stream = Path(file).open("rb")  # noqa: SIM115  # closed below; only the opening is translated
    except OSError as exc:
        raise ConfigurationError(f"{file} cannot be read: {exc.strerror}") from exc
    with stream:
        yield stream


def _size(stream: BinaryIO) -> int | None:
    try:
        return os.fstat(stream.fileno()).st_size or None
    except OSError:
        return None


def _progress() -> Progress:
    """On standard error, and only where somebody looks at it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), DownloadColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


def _producer(broker_url: str | None, queue: str | None, timeout_s: float) -> Producer:
    url = find_broker(broker_url)
    try:
        return Producer(
            url,
            name="penstock-publish",
            policy="block",
            durability="memory",  # what is not delivered is told, and published again by who runs the command again
            block_timeout_s=timeout_s,
            queue=queue or read_setting("PENSTOCK_QUEUE") or QUEUE,
        )
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from exc


def find_broker(broker_url: str | None) -> str:
    """The URL given, else the environment's, else that of a running stack; raises ConfigurationError where there is none."""
    try:
        url = broker_url or broker_url_from(os.environ) or _running_broker()
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from exc
    if not url:
        raise ConfigurationError("no broker and no `penstock up` in this folder: give --broker-url or set PENSTOCK_BROKER_URL")
    return url


def read_setting(variable: str) -> str | None:
    """A variable of the environment, or the file that it names; without `Settings`, which need the worker's extra."""
    try:
        return environment.read(variable, os.environ)
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from exc


def _running_broker() -> str | None:
    try:
        stack = json.loads(_STACK_FILE.read_text())
    except (OSError, ValueError):
        return None
    url = stack.get("broker_url") if isinstance(stack, dict) else None
    return url if isinstance(url, str) else None


def _registry(records: str | None) -> Registry:
    modules = records if records is not None else read_setting("PENSTOCK_RECORDS") or ""
    return load_registry(part.strip() for part in modules.split(",") if part.strip())
