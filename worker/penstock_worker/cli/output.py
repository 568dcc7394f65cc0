"""What commands print: JSON for programs, and for people text that strangers wrote."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import typer
from rich.markup import escape

__all__ = ["as_text", "plain", "print_json"]


def print_json(value: Any) -> None:
    """Print it on stdout as one object in one line, times in ISO 8601."""
    typer.echo(json.dumps(value, default=as_text))


def plain(value: object, limit: int = 120) -> str:
    """A cell of a table: one short line that is neither markup nor a control sequence of the terminal."""
    text = "" if value is None else str(value)
    line = "".join(character if character.isprintable() else " " for character in text)
    return escape(line if len(line) <= limit else line[: limit - 1] + "…")


def as_text(value: Any) -> str:
    """What JSON has no form for: times in ISO 8601, all else as Python writes it."""
    return value.isoformat() if isinstance(value, datetime) else str(value)
