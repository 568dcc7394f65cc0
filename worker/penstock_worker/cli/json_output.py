"""What `--json` prints: one object in one line, times in ISO 8601."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import typer

__all__ = ["print_json"]


def print_json(value: Any) -> None:
    """Print it on stdout."""
    typer.echo(json.dumps(value, default=_as_text))


def _as_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
