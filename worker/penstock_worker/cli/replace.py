"""Becoming a Celery program: signals and exit codes are then its own, with nothing in between."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import NoReturn

from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import Settings
from penstock_worker.stack.commands import service_environment

__all__ = ["replace_by"]


def replace_by(command: Sequence[str], settings: Settings) -> NoReturn:
    """
    Go on as this command; does not return.

    Raises:
        ConfigurationError: There is no broker, or no module of a name in `PENSTOCK_TASKS`.
    """
    settings.broker  # noqa: B018  # raises where it is not set
    for module in settings.tasks:
        _check_there_is(module)
    sys.stdout.flush()
    os.execve(command[0], list(command), {**os.environ, **service_environment(settings)})  # noqa: S606  # no shell is wanted


def _check_there_is(module: str) -> None:
    with suppress(ImportError, ValueError):  # there is no package around it, or the name is none, like `.x`
        if find_spec(module) is not None:
            return
    raise ConfigurationError(f"PENSTOCK_TASKS: there is no module {module!r} in the path of Python, nor in this folder")
