"""The filters that all commands on dead letters take, declared once."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints
from uuid import UUID

import typer

if TYPE_CHECKING:
    from penstock_worker.store.connection import Connection
    from penstock_worker.store.letter_filter import LetterFilter

__all__ = ["State", "parse_moment", "until_now", "with_filters"]

_AGO = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class State(enum.StrEnum):
    """`dead` can never be stored as it is, `held` cannot be stored now."""

    DEAD = "dead"
    HELD = "held"


def parse_moment(text: str) -> datetime:
    """A time with its zone, or so long ago: `2026-11-21T12:00:00Z`, `90s`, `30m`, `2h`, `7d`."""
    ago = _AGO.fullmatch(text)
    if ago:
        try:
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        except OverflowError:
            raise typer.BadParameter("that is before the year 1") from None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("give 2026-11-21T12:00:00Z, or 90s, 30m, 2h, 7d ago") from None
    if moment.tzinfo is None:
        raise typer.BadParameter("a time needs its zone, such as 2026-11-21T12:00:00Z")
    return moment


def until_now(meant: LetterFilter, connection: Connection) -> LetterFilter:
    """The same letters without those that come from now on, by the database's clock."""
    (now,) = connection.execute("SELECT clock_timestamp()").fetchone() or (None,)
    assert isinstance(now, datetime)  # a SELECT without FROM has a row
    return replace(meant, until=min(filter(None, (meant.until, now))))


def _filter(
    state: Annotated[State | None, typer.Option(help="Only dead or only held ones.")] = None,
    type: Annotated[str | None, typer.Option(help="Only of this record type.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only with this reason.")] = None,
    producer: Annotated[str | None, typer.Option(help="Only from this producer.")] = None,
    fingerprint: Annotated[str | None, typer.Option(help="Only with this fingerprint, or its ten digits in `list`.")] = None,
    since: Annotated[
        datetime | None,
        typer.Option(parser=parse_moment, metavar="TIME", help="From this time on: ISO 8601, or 2h for two hours ago."),
    ] = None,
    until: Annotated[datetime | None, typer.Option(parser=parse_moment, metavar="TIME", help="Only before this time.")] = None,
    ids: Annotated[list[UUID] | None, typer.Option("--id", metavar="ID", help="Only this one; may be given again.")] = None,
) -> LetterFilter:
    from penstock_worker.store.letter_filter import LetterFilter

    return LetterFilter(state and state.value, type, reason, producer, fingerprint, since, until, tuple(ids or ()))


def with_filters(command: Callable[..., None]) -> Callable[..., None]:
    """
    Give a command the options of all filters.

    Args:
        command: Its parameter `meant` gets the `LetterFilter`; the other parameters are options of its own.
    """
    own = _parameters(command)
    filters = _parameters(_filter)

    @wraps(command)
    def run(**given: Any) -> None:
        command(meant=_filter(**{part.name: given.pop(part.name) for part in filters}), **given)

    parameters = [*own, *filters]
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # what Typer reads
    run.__annotations__ = {part.name: part.annotation for part in parameters}
    return run


def _parameters(function: Callable[..., Any]) -> list[Parameter]:
    """The options of a function, with annotations that are no text any more."""
    for name in ("meant", "return"):  # of a type that is not loaded yet, and no options
        function.__annotations__.pop(name, None)
    hints = get_type_hints(function, include_extras=True)
    return [
        part.replace(annotation=hints[part.name], kind=Parameter.KEYWORD_ONLY)
        for part in signature(function).parameters.values()
        if part.name in hints
    ]
